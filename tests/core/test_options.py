"""The command line: what it accepts, and that it refuses everything else with status 2 and the right spelling."""

import os
import re
import subprocess
import sys

import pytest

from core.cli import main as command
from core.common import paths
from core.common.errors import UserError
from core.common.spellings import OPTIONS
from core.declare.tree import names
from core.diagnostics.lr_curve import RangeTest
from core.experiment import Experiment
from core.launch import Launch
from core.losses import FocalLoss
from core.options import OWN, parse
from core.search.options import Search
from experiments import pictures
from experiments.pictures import EXPERIMENT, VARIANTS
from tests.support.mistakes import refused

PACKAGE = "experiments.pictures"


def run(words, monkeypatch, capsys):
    """(exit status, standard error) of a command line; training is not reached."""
    monkeypatch.setattr("core.cli.train.train", lambda experiment, options: 0)
    with pytest.raises(SystemExit) as left:
        command.experiment(PACKAGE, words)
    return left.value.code, capsys.readouterr().err


def options(*words):
    return parse(words, EXPERIMENT, VARIANTS)


def test_options_change_the_declaration_and_the_launch():
    got = options(
        "--optimizer.lr", "0.5", "--loss=FocalLoss", "--loss.gamma", "1", "--smoke", "--device", "cpu", "--seeds", "3"
    )
    assert got.experiment == EXPERIMENT.but({"optimizer.lr": 0.5, "loss": FocalLoss(gamma=1)})
    assert got.launch == Launch(smoke=True, device="cpu")
    assert got.seeds == 3


def test_a_variant_is_changed_further():
    got = options("--variant", "mixup", "--augment.mixup.alpha", "0.4")
    assert got.variant == "mixup"
    assert [step.label() for step in got.experiment.augment] == ["random_crop", "horizontal_flip", "mixup"]
    assert got.experiment.augment[2].alpha == 0.4


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--augment", "none"], "augment", ()),
        (["--augment", "HorizontalFlip,CutMix", "--augment.cut_mix.alpha", "0.5"], "augment.cut_mix.alpha", 0.5),
        (["--stopping", "none"], "stopping", None),
        (["--ema.decay", "0.9"], "ema.decay", 0.9),
        (["--model", "SmallCNN", "--model.widths", "[8, 16]"], "model.widths", (8, 16)),
        (["--optimizer", "AdamW", "--optimizer.betas", "[0.8, 0.9]"], "optimizer.betas", (0.8, 0.9)),
        (["--clip_grad_norm", "1.5"], "clip_grad_norm", 1.5),
        (["--clip-grad-norm=1.5"], "clip_grad_norm", 1.5),
        (["--optimizer.nesterov", "false"], "optimizer.nesterov", False),
        (["--data", '{"class": "Digits", "split_seed": 3}'], "data.split_seed", 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_values_as_they_are_typed(words, name, value):
    assert options(*words).experiment.flat()[name] == value


def test_seeds_until_decided_that_are_asked_for_in_other_words(monkeypatch, capsys):
    status, error = run(["--variant", "focal,mixup", "--seeds", "decide"], monkeypatch, capsys)
    assert status == 2
    assert "--variant focal,mixup: several variants are taken with --seeds decided alone" in error
    assert "(got 'decide'); did you mean decided?" in error


def test_all_mistakes_are_listed_at_once_before_anything_starts(monkeypatch, capsys):
    words = ["--epochs", "0", "--optimizer.lrr", "1", "--devise", "cpu", "--loss", "FocalLos", "--seeds", "no", "stray"]
    status, error = run(words, monkeypatch, capsys)
    assert status == 2
    assert error.startswith("labbook train: 6 errors, nothing was started\n")
    for spelling in ("--optimizer.lr", "--device", "did you mean FocalLoss", "a positive integer (got 'no')", "stray"):
        assert spelling in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "did you mean train?"),
        (["--variant", "mixupp"], "did you mean mixup?"),
        (["--epochs"], "needs a value"),
        (["--epochs", "3", "--epochs", "4"], "given twice"),
        (["--model.depth", "19"], "18, 34 or 50"),
        (["--device", "cdua"], "should be auto, cpu, cuda"),
        (["--augment", "[broken"], "not JSON"),
        (["--clip_norm", "1"], "--clip_norm: unknown option; it is now called --clip_grad_norm"),
        (["--schedule.final", "0.1"], "--schedule.final: unknown option; it is now called --schedule.min_lr_ratio"),
        (["--stopping.metric=val/loss"], "--stopping.metric: unknown option; it is now called --stopping.monitor"),
        (["--monitor", "val_acc"], "did you mean val/accuracy?"),
        (["--monitor", "top1"], "did you mean val/accuracy?"),
        (["optimizer.lr=0.1"], "optimizer.lr=0.1: options are written --optimizer.lr 0.1"),
        (["+model=MLP", "--smoke"], "+model=MLP: options are written --model MLP"),
        (["-m", "train"], "-m: unknown option; declare SPACE and use the verb search"),
        (["--resume", "digits_cnn-1"], "--resume: unknown option; `labbook resume RUN`"),
        (["--output-dir", "out"], "LABBOOK_HOME"),
        (["--compile", "yes"], "--compile: should be auto, on or off"),
    ],
)
def test_a_mistake_is_explained(words, message, monkeypatch, capsys):
    status, error = run(words, monkeypatch, capsys)
    assert status == 2
    assert message in error


@pytest.mark.parametrize("name", OPTIONS)
def test_a_usual_spelling_gets_a_hint_whose_options_exist(name):
    known = {*names(EXPERIMENT.but({"optimizer": "SAM"})), *names(EXPERIMENT), *Launch.model_fields, *OWN}
    assert name not in known, "the table hides an option that exists"
    dashes = "--" if len(name) > 1 else "-"
    with pytest.raises(UserError) as caught:
        options(dashes + name.replace("_", "-"), "1")
    (line,) = caught.value.lines
    assert line.startswith(f"{dashes}{name}: unknown option; ")
    named = set(re.findall(r"--([\w.]+)", line.partition(";")[2]))
    assert named <= known | {"nproc", "gpus_per_node"}


def test_1000_generated_mistakes_are_refused_and_the_right_spelling_named():
    assert refused(0, 1000) == []


def test_keys_are_frozen():
    """Scripts and records rely on these names: adding is free, renaming is a decision to be made here."""
    assert set(FROZEN) <= {*names(EXPERIMENT), *Launch.model_fields, *OWN}


FROZEN = """
data data.val_fraction data.split_seed model model.depth model.stem augment augment.random_crop.padding
augment.horizontal_flip.p loss loss.label_smoothing method optimizer optimizer.lr optimizer.momentum
optimizer.nesterov optimizer.weight_decay schedule schedule.warmup_epochs schedule.min_lr_ratio stopping
stopping.patience stopping.min_delta stopping.monitor epochs batch_size grad_accum_steps clip_grad_norm ema ema.decay
precision monitor limit seed root device threads workers resident log_every checkpoint_every deterministic smoke mlflow
variant seeds
""".split()


def shown(words, capsys):
    """The help that a command line prints."""
    with pytest.raises(SystemExit) as left:
        command.experiment(PACKAGE, words)
    assert left.value.code == 0
    return capsys.readouterr().out


def test_help_all_names_every_field_and_choice(capsys):
    out = shown(["--help", "all"], capsys)
    assert out.startswith(pictures.__doc__.strip()[:40])
    for name in (*Experiment.model_fields, *Launch.model_fields, *Search.model_fields, *RangeTest.model_fields, *OWN):
        assert f"  --{name} " in out, name
    for name in (*FROZEN, *VARIANTS, "FocalLoss", "Cifar100"):
        assert name in out
    assert max(map(len, out.splitlines())) <= 100


def test_help_shows_the_ten_options_that_are_changed_most_and_leads_to_the_rest(capsys):
    out = shown(["--help"], capsys)
    assert max(map(len, out.splitlines())) <= 100
    options = re.findall(r"^  --([\w.]+) ", out.partition("More help")[0], re.MULTILINE)
    assert len(options) == 10
    assert {"variant", "seeds", "epochs", "model", "optimizer.lr"} < {*options}
    assert "--help all" in out
    assert "\x1b" not in out
    assert "--optimizer.base.lr 0.1" in shown(["--optimizer", "SAM", "--help"], capsys)


@pytest.mark.parametrize(
    "line",
    [
        "--epochs 60 maximum number of epochs \\(positive integer\\)",
        "--loss.label_smoothing 0.1 .*\\(at least 0, below 1\\)",
        "--swa.start 0.75 .*\\(at least 0, below 1; adds swa\\)",
        "--schedule.min_lr_ratio 0.0 .*\\(0 to 1\\)",
        "--precision auto .*\\(choose one of auto, fp32, bf16, fp16, bf16-true, fp16-true\\)",
        "--optimizer SGD .*choose one of SGD, Adam, AdamW, RMSprop, Muon",
    ],
)
def test_help_says_what_a_field_takes(line, capsys):
    assert re.search(line, " ".join(shown(["--help", "all"], capsys).split()))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--loss", "FocalLoss", "--help"], "--loss.gamma 2.0"),
        (["--help", "--optimizer=SAM", "--optimizer.base=AdamW"], "--optimizer.base.betas 0.9,0.999"),
        (["--variant", "cutmix", "-h"], "--augment.cut_mix.alpha 1.0"),
        (["--loss", "FocalLos", "--help"], "--loss.label_smoothing 0.1"),
        (["--model", "Torchvision", "--help"], "--model.name (required)"),
        (["search", "--help"], "--trials 50"),
    ],
    ids=["part", "nested", "variant", "misspelled", "required", "verb"],
)
def test_help_shows_the_fields_of_the_parts_that_are_named_beside_it(words, expected, capsys):
    assert expected in shown(words, capsys)


def test_help_has_color_on_a_terminal_only():
    code = "import pty; pty.spawn([__import__('sys').executable, '-m', 'experiments.tiny', '--help'])"
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "90"}
    environment.pop("NO_COLOR", None)
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=paths.ROOT, check=True)
    assert "\x1b[" in done.stdout
    assert max(len(re.sub(r"\x1b\[[\d;]*m", "", line)) for line in done.stdout.splitlines()) <= 90


def test_mistakes_in_the_declaration_itself_come_before_data():
    from core.training.assemble import check

    with pytest.raises(UserError) as caught:
        check(EXPERIMENT.but({"grad_accum_steps": 7, "optimizer.momentum": 0}))
    assert len(caught.value.lines) == 2
