"""The command line: what it accepts, and that it refuses everything else with status 2 and the right spelling."""

import pytest

from core.cli import main as command
from core.common.errors import UserError
from core.declare.tree import names
from core.launch import Launch
from core.losses import FocalLoss
from core.options import OWN, parse
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


def test_all_mistakes_are_listed_at_once_before_anything_starts(monkeypatch, capsys):
    words = ["--epochs", "0", "--optimizer.lrr", "1", "--devise", "cpu", "--loss", "FocalLos", "--seeds", "no", "stray"]
    status, error = run(words, monkeypatch, capsys)
    assert status == 2
    assert "6 mistakes" in error
    for spelling in ("--optimizer.lr", "--device", "did you mean FocalLoss", "greater than or equal to 1", "stray"):
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
    ],
)
def test_a_mistake_is_explained(words, message, monkeypatch, capsys):
    status, error = run(words, monkeypatch, capsys)
    assert status == 2
    assert message in error


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


def test_help_names_every_field_and_choice(capsys):
    with pytest.raises(SystemExit) as left:
        command.experiment(PACKAGE, ["--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    assert out.startswith(pictures.__doc__.strip()[:40])
    for name in (*FROZEN, *VARIANTS, "FocalLoss", "Cifar100"):
        assert name in out


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--loss", "FocalLoss", "--help"], "--loss.gamma 2.0"),
        (["--help", "--optimizer=SAM", "--optimizer.base=AdamW"], "--optimizer.base.betas 0.9,0.999"),
        (["--variant", "cutmix", "-h"], "--augment.cut_mix.alpha 1.0"),
        (["--loss", "FocalLos", "--help"], "--loss.label_smoothing 0.1"),
    ],
    ids=["part", "nested", "variant", "misspelt"],
)
def test_help_shows_the_fields_of_the_parts_that_are_named_beside_it(words, shown, capsys):
    with pytest.raises(SystemExit) as left:
        command.experiment(PACKAGE, words)
    assert left.value.code == 0
    assert shown in capsys.readouterr().out


def test_mistakes_in_the_declaration_itself_come_before_data():
    from core.training.assemble import check

    with pytest.raises(UserError) as caught:
        check(EXPERIMENT.but({"grad_accum_steps": 7, "optimizer.momentum": 0}))
    assert len(caught.value.lines) == 2
