"""When a run ends early: by its metric, or by its time, however often it was interrupted."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest

from core.common.errors import UserError
from core.common.ranks import Ranks
from core.launch import Launch
from core.metrics.names import MetricName, best_epoch, sign
from core.schedules.stopping import EarlyStopping, out_of_time
from core.training import state as state_module
from core.training.assemble import prepare
from core.training.loop import fit
from tests.support.loop import BASE, built, run

SMALLER = {"val/loss", "val/nll", "val/ece"}
metrics = pytest.mark.parametrize("metric", get_args(MetricName))


@metrics
def test_the_direction_follows_from_the_name(metric):
    assert sign(metric) == (-1 if metric in SMALLER else 1)
    good, bad = (0.1, 0.9) if metric in SMALLER else (0.9, 0.1)
    history = [{metric: value} for value in (bad, good, bad)]
    assert best_epoch(history, metric) == 1
    assert not EarlyStopping(patience=2, monitor=metric)(history)
    assert EarlyStopping(patience=1, monitor=metric)(history)


def test_an_epoch_that_is_not_a_number_is_no_improvement():
    history = [{"val/loss": value} for value in (1.0, math.nan, math.nan)]
    assert EarlyStopping(patience=2, monitor="val/loss")(history)
    assert not EarlyStopping(patience=3, monitor="val/loss")(history)
    assert not EarlyStopping(patience=2, monitor="val/loss")([*history[1:], {"val/loss": 2.0}])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"monitor": "val/top5"}, "monitor"),
        ({"stopping.monitor": "val/top5"}, r"stopping\.monitor"),
        ({"schedule": "Plateau", "schedule.monitor": "val/top5"}, r"schedule\.monitor"),
    ],
    ids=["monitor", "stopping", "schedule"],
)
def test_a_metric_that_these_data_do_not_have_is_refused_before_training(changes, field):
    with pytest.raises(UserError, match=rf"{field}: val/top5 .* \(.* at least six classes.*\); .*val/loss"):
        prepare(BASE.but(changes), Launch(), Ranks())


def test_a_metric_of_no_name_is_refused_by_its_field():
    with pytest.raises(UserError, match=r"stopping\.monitor"):
        BASE.but({"stopping.monitor": "val/fun"})
    with pytest.raises(ValueError, match=r"val/f1 is not measured .*choose one of val/loss"):
        best_epoch([{"val/loss": 1.0}], "val/f1")


# ---- the time budget


@pytest.mark.parametrize(
    ("minutes", "ends"),
    [((), False), ((4,), False), ((5,), False), ((6,), True), ((3, 6), False), ((3, 8), True), ((12,), True)],
    ids=["empty", "two_more", "just_one_more", "none_more", "third_fits", "third_would_not", "first_overran"],
)
def test_no_epoch_begins_that_would_end_after_the_budget(minutes, ends):
    assert out_of_time([{"minutes": m} for m in minutes], 10) is ends


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(state_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def trained(parts, clock, seconds, until=math.inf):
    """Epochs done when each step takes so long; leaves at a step."""
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        if event.validation is None:
            clock[0] += seconds
        if event.step >= until and event.validation is None:
            break
    return len(parts.state.history)


def test_a_run_ends_validated_within_its_minutes(clock):
    # five steps of 12 s are a minute an epoch
    parts = built({"max_minutes": 3.5, "epochs": 50})
    assert trained(parts, clock, 12) == 3
    assert parts.state.step == 15
    assert [entry["minutes"] for entry in parts.state.history] == pytest.approx([1, 2, 3])
    assert "val/loss" in parts.state.history[-1]


def test_at_least_one_epoch_is_trained(clock):
    assert trained(built({"max_minutes": 0.01}), clock, 12) == 1


def test_time_counts_over_interruptions_and_what_lay_between_does_not(clock):
    changes = {"max_minutes": 3.5, "epochs": 50}
    first = built(changes)
    assert trained(first, clock, 12, until=7) == 1
    snapshot = first.state.snapshot()
    clock[0] += 36000  # ten hours pass between the kill and the resume
    second = built(changes)
    second.state.restore(snapshot)
    assert trained(second, clock, 12) == 3
    assert [entry["minutes"] for entry in second.state.history] == pytest.approx([1, 2, 3])


def test_a_checkpoint_after_the_last_epoch_starts_none(clock):
    first, second = built({"max_minutes": 2}), built({"max_minutes": 2})
    assert trained(first, clock, 12) == 2
    second.state.restore(first.state.snapshot())
    assert trained(second, clock, 12) == 2


def test_without_a_budget_no_time_is_kept():
    parts = built()
    assert "stopwatch" not in parts.state.snapshot()
    assert "minutes" not in run(parts)[-1].metrics


def test_both_ends_serve_together(clock):
    parts = built({"max_minutes": 60, "stopping.patience": 1, "optimizer.lr": 1e-9, "epochs": 50})
    parts = replace(parts, setup=replace(parts.setup, stopping=EarlyStopping(patience=2)))
    assert trained(parts, clock, 1) == 3


@pytest.mark.parametrize("minutes", [0, -1, "soon"])
def test_minutes_must_be_some(minutes):
    with pytest.raises(UserError, match="max_minutes"):
        BASE.but({"max_minutes": minutes})
