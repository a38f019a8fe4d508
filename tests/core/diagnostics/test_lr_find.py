"""lr_find: the curve and what is read from it, and that it is no run."""

import csv

import pytest
import torch

from core.cli import main as command
from core.common import paths
from core.common.errors import UserError
from core.diagnostics.lr_curve import Curve, RangeTest, curve, has_diverged, smooth
from core.diagnostics.lr_find import advice, lr_find
from core.launch import Launch
from core.methods import Method, Output
from core.optimizers import SAM, SGD
from tests.support.loop import BASE
from tests.support.processes import start

PROGRAM = "experiments.tiny"
OFFLINE = Launch(mlflow=False, threads=1)


class Bowl(Method):
    """h/2 ||w||^2 whatever the images: plain gradient descent diverges from 2/h on, and is fastest at 1/h."""

    h: float = 100.0

    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        squares = sum(p.square().sum() for p in model.parameters())
        return Output(self.h / 2 * squares.expand(len(logits)) + 0 * logits.sum(dim=1), logits)


def bowl(h):
    changes = {"method": Bowl(h=h), "optimizer": SGD(lr=0.1, momentum=0.0), "augment": (), "model.dropout": 0.0}
    return BASE.but(changes)


@pytest.mark.parametrize("h", [1.0, 100.0], ids=["flat", "steep"])
def test_on_a_quadratic_both_rules_name_a_rate_of_the_right_decade(h):
    found = lr_find(bowl(h), OFFLINE, RangeTest(min_lr=1e-5, max_lr=100.0, steps=140)).curve
    assert 0.03 / h <= found.steepest < 2 / h
    assert 2 / h <= found.diverging < 20 / h, "it takes some steps to climb out of the minimum"
    assert found.rates[-1] < 100, "it is left once it has diverged"


def test_rates_grow_by_equal_factors_whatever_schedule_and_rate_are_declared():
    test = RangeTest(min_lr=1e-6, max_lr=1e-2, steps=13)
    changes = {"optimizer.lr": 0.37, "schedule.warmup_epochs": 2, "stopping.patience": 1, "epochs": 1}
    rates = lr_find(BASE.but(changes), OFFLINE, test).curve.rates
    assert rates == pytest.approx([10 ** (-6 + 4 * i / 12) for i in range(13)])


def test_the_steps_are_those_of_training_at_these_rates(monkeypatch):
    from core.training import loop

    used = []
    step = loop.advance

    def spied(setup, state, *rest):
        used.append(state.optimizer.param_groups[0]["lr"])
        step(setup, state, *rest)

    monkeypatch.setattr(loop, "advance", spied)
    found = lr_find(BASE, OFFLINE, RangeTest(min_lr=1e-4, max_lr=1e-2, steps=12)).curve
    assert used == pytest.approx(found.rates)


def test_a_loss_that_is_not_finite_ends_it_and_counts_as_diverging():
    class Cliff(Method):
        def step(self, model, loss, batch, clock):
            logits = model(batch.images)
            return Output(loss(logits, batch.targets) * (float("nan") if clock.step == 7 else 1.0), logits)

    test = RangeTest(min_lr=1e-6, max_lr=1e-5, steps=20)
    found = lr_find(BASE.but({"method": Cliff()}), OFFLINE, test).curve
    assert len(found.rates) == 7
    assert found.diverging == pytest.approx(test.rate(7))
    assert "a tenth of the learning rate" in advice(found)[-1]


def test_smoothing_does_not_lag():
    ramp = [float(i) for i in range(41)]
    assert smooth(ramp, 0.8)[20] == pytest.approx(20, abs=0.1)


def test_noise_on_a_flat_start_is_neither_divergence_nor_a_suggestion():
    flat = [2.3 + 0.03 * (-1) ** i for i in range(50)]
    assert not any(has_diverged(flat[: n + 1], 0.8) for n in range(50))
    found = curve([1e-6 * 1.1**i for i in range(50)], flat, 0.8)
    assert found.steepest is None
    assert "no suggestion" in advice(found)[0]
    assert "did not diverge" in advice(found)[1]


def test_nothing_but_plot_and_table_is_left(home):
    found = lr_find(BASE, OFFLINE, RangeTest(steps=10), "x")
    assert found.folder.parent == paths.home() / "mlruns" / "lr_find"
    assert {file.name for file in home.rglob("*") if file.is_file()} == {"lr_find.csv", "lr_find.png"}
    rows = list(csv.DictReader((found.folder / "lr_find.csv").open()))
    assert [float(row["lr"]) for row in rows] == pytest.approx(found.curve.rates, rel=1e-4)
    assert [float(row["loss"]) for row in rows] == pytest.approx(found.curve.losses, rel=1e-4)
    assert (found.folder / "lr_find.png").read_bytes().startswith(b"\x89PNG")


def test_a_suggestion_is_set_as_it_is_typed_whatever_holds_the_rate():
    test = RangeTest(min_lr=1e-4, max_lr=1e-2, steps=10)
    inside = lr_find(BASE.but({"optimizer": SAM(base=SGD(lr=0.3))}), OFFLINE, test)
    assert inside.field == "optimizer.base.lr"
    falling = [5.0, 4.0, 3.0, 2.0, 1.0]
    assert "--optimizer.base.lr" in advice(Curve(falling[::-1], falling, falling), inside.field)[0]


def test_rates_are_those_of_the_declared_field_where_groups_multiply_all():
    test = RangeTest(min_lr=1e-4, max_lr=1e-2, steps=10)
    plain = lr_find(BASE.but({"optimizer": SGD(lr=0.3)}), OFFLINE, test).curve
    tenth = lr_find(BASE.but({"optimizer": SGD(lr=0.3, groups={"*": 0.1})}), OFFLINE, test).curve
    assert tenth.rates == plain.rates
    assert tenth.losses[-1] > plain.losses[-1], "each rate has moved the weights by a tenth"


def test_an_empty_curve_suggests_nothing():
    found = Curve([], [], [], refused=1e-6)
    assert found.steepest is None
    assert found.diverging == 1e-6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "3"], "--steps: should be greater than or equal to 10"),
        (["--min_lr", "1", "--max_lr", "0.1"], "--max_lr: should be above min_lr, 1"),
        (["--min-lr", "50"], "should be above min_lr, 50"),
        (["--smoothing", "1"], "less than 1"),
        (["--stepz", "30"], "did you mean --steps?"),
        (["--epochs", "0"], "--epochs"),
        (["--seeds", "2"], "leave it out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_refused(words, message, capsys, home):
    with pytest.raises(SystemExit) as left:
        command.experiment(PROGRAM, ["lr_find", *words])
    assert left.value.code == 2
    assert message in capsys.readouterr().err
    assert not (home / "mlruns").exists()


def test_its_options_are_no_options_of_training(capsys):
    with pytest.raises(SystemExit) as left:
        command.experiment(PROGRAM, ["--min_lr", "1"])
    assert left.value.code == 2


def test_a_range_that_goes_down_is_refused_in_python_too():
    with pytest.raises((UserError, ValueError), match="above min_lr"):
        RangeTest(min_lr=20.0)


def test_the_command_line_says_where_the_plot_lies(home, capsys):
    with pytest.raises(SystemExit) as left:
        command.experiment(PROGRAM, ["lr_find", "--steps", "12", "--threads", "1", "--limit", "300"])
    (folder,) = (home / "mlruns" / "lr_find").iterdir()
    assert left.value.code == 0
    assert str(folder) in capsys.readouterr().out
    assert not paths.runs().exists()


def test_two_processes_write_once_and_agree(forge, home):
    words = (PROGRAM, "lr_find", "--steps", "12", "--threads", "1", "--batch_size", "60", "--model.norm", "group")
    assert [process.wait() for process in start(forge, *words)] == [0, 0]
    (folder,) = (home / "mlruns" / "lr_find").iterdir()
    assert forge.run(*words)[0] == 0
    alone = next(path for path in folder.parent.iterdir() if path != folder)
    losses = [[float(r["loss"]) for r in csv.DictReader((f / "lr_find.csv").open())] for f in (folder, alone)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
