"""A command line of timm's train.py moves over as docs/migrating.md says: it trains, and timm's own objects agree."""

import importlib
import re
import sys

import pytest
import torch

import experiments
from core.cli.main import experiment
from core.context import Clock
from core.runs.trained import load
from tests.support.documentation import ROOT, blocks, commands
from tests.support.optional import library
from tests.support.samples import tree

PAGE = (ROOT / "docs" / "migrating.md").read_text()
SECTION = PAGE.partition("## A timm train.py command line, moved over")[2].partition("\n## ")[0]
TYPED = blocks(SECTION, "text")[0].code.replace("\\\n", " ").split()
PACKAGE = "experiments.timm_photographs"


def typed(option):
    """The value of an option of the command line of timm."""
    return float(TYPED[TYPED.index(option) + 1])


@pytest.fixture
def declared(tmp_path, monkeypatch):
    """The experiment of the page, written as the page says."""
    library("timm", extra="timm")
    for block in blocks(SECTION, "python"):
        path = tmp_path / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code + "\n")
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path / "experiments")])
    yield importlib.import_module(PACKAGE).EXPERIMENT
    for name in [name for name in sys.modules if name.startswith(PACKAGE)]:
        del sys.modules[name]


@pytest.fixture
def network(declared):
    import timm

    return timm.create_model(declared.model.name, num_classes=2, drop_path_rate=typed("--drop-path"))


def test_its_commands_train_on_a_folder_with_train_and_val(declared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "photographs", each=8, splits=("train", "val"))
    look, trained, _ = [words for block in blocks(SECTION, "bash") for words in commands(block)]
    small = ["--data.size", "32", "--data.resize_size", "34", "--batch_size", "8"]
    quick = ["--epochs", "1", "--mlflow", "false", "--device", "cpu", "--threads", "1", "--workers", "0"]
    for words in (look, [*trained[:-2], *quick]):
        with pytest.raises(SystemExit) as ended:
            experiment(PACKAGE, [*words[3:], *small])
        assert ended.value.code == 0, capsys.readouterr().err
    run = load("timm_photographs/latest")
    assert (run.record["data"]["train"] + run.record["data"]["val"], run.record["data"]["test"]) == (16, 16)
    assert "test/accuracy" in run.metrics


def test_each_option_of_the_command_line_has_a_row(declared):
    options = {word for word in TYPED if re.fullmatch(r"--?[a-z].*", word)}
    rows = SECTION.partition("| --- | --- |")[2]
    assert {option for option in options if not re.search(rf"`[^`]*{re.escape(option)}(?![\w-])", rows)} == set()


def test_the_rates_are_those_of_timms_scheduler_in_each_epoch(declared, network):
    from timm.scheduler import create_scheduler_v2

    lr, epochs = typed("--lr"), int(typed("--epochs"))
    scheduler, count = create_scheduler_v2(
        torch.optim.SGD(network.parameters(), lr=lr),
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=int(typed("--warmup-epochs")),
        warmup_lr=typed("--warmup-lr"),
        min_lr=typed("--min-lr"),
    )
    assert count == epochs == declared.epochs
    for epoch in range(epochs):
        scheduler.step(epoch)  # as train.py does before each epoch
        theirs = scheduler.optimizer.param_groups[0]["lr"]
        for step in (0, 6):
            ours = declared.optimizer.lr * declared.schedule(Clock(7 * epoch + step, 7, epochs))
            assert ours == pytest.approx(theirs, rel=1e-9)


def test_the_optimizer_is_timms_with_the_same_weights_decayed(declared, network):
    from timm.optim import create_optimizer_v2

    theirs = create_optimizer_v2(network, opt="adamw", lr=typed("--lr"), weight_decay=typed("--weight-decay"))
    ours = declared.optimizer.build(network)
    assert type(ours) is type(theirs) is torch.optim.AdamW

    def settings(optimizer):
        return {
            id(parameter): [group[name] for name in ("lr", "weight_decay", "betas", "eps", "amsgrad")]
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    assert settings(ours) == settings(theirs)


def test_the_loss_is_timms_also_of_mixed_targets(declared):
    from timm.data.mixup import mixup_target
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    smoothing = typed("--smoothing")
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, generator=generator), torch.arange(6) % 4
    loss = declared.loss
    torch.testing.assert_close(loss(logits, labels).mean(), LabelSmoothingCrossEntropy(smoothing)(logits, labels))
    hard = torch.eye(4)[labels]
    mixed = 0.3 * hard + 0.7 * hard.flip(0)
    theirs = SoftTargetCrossEntropy()(logits, mixup_target(labels, 4, lam=0.3, smoothing=smoothing))
    torch.testing.assert_close(loss(logits, mixed).mean(), theirs)


def test_crop_augmentation_and_average_are_timms(declared, network):
    from timm.data import create_transform, resolve_data_config
    from timm.utils import ModelEmaV3

    config = resolve_data_config({}, model=network)
    side, data = config["input_size"][1], declared.data
    assert (data.size, data.interpolation) == (side, config["interpolation"])
    assert data.resize_size == int(side / config["crop_pct"])
    theirs = create_transform(side, is_training=True, auto_augment="rand-m9-mstd0.5", re_prob=typed("--reprob"))
    crop, flip, policy, *_ = theirs.transforms
    steps = {type(step).__name__: step for step in declared.augment}
    assert [*crop.scale, *crop.ratio] == pytest.approx(
        [*steps["RandomResizedCrop"].scale, *steps["RandomResizedCrop"].ratio]
    )
    assert flip.p == steps["HorizontalFlip"].p
    assert str(steps["Transform"]._made()) == str(policy)
    erasing = theirs.transforms[-1]
    assert (erasing.probability, erasing.min_area, erasing.max_area) == (
        steps["RandomErasing"].p,
        *steps["RandomErasing"].scale,
    )
    average = ModelEmaV3(network, decay=typed("--model-ema-decay"))
    assert all(declared.ema.at(step) == average.get_decay(step) for step in (2, 10, 10_000))
