"""Schedules: step for step torch's own, in the unit that torch's counts in."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler as L

from core.common.errors import UserError
from core.schedules import (
    Clock,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Schedule,
    Step,
)

steps_and_epochs = st.tuples(st.integers(1, 12), st.integers(1, 15))
share = st.floats(0, 0.9)
gammas = st.floats(0.05, 1.0)


def curve(schedule, steps, epochs):
    return [schedule(Clock(step, steps, epochs)) for step in range(steps * epochs)]


def torchs(make, count, every=1):
    """Rates before each of `count` steps of torch's scheduler, stepped after every so many of them."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = make(optimizer)
    rates = []
    for step in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if (step + 1) % every == 0 and step + 1 < count:
            reference.step()
    return rates


def assert_same(schedule, make, size, per_epoch):
    steps, epochs = size
    expected = torchs(make, steps * epochs, steps if per_epoch else 1)
    np.testing.assert_allclose(curve(schedule, steps, epochs), expected, rtol=1e-6, atol=1e-9)


def test_constant():
    assert_same(Constant(), lambda o: L.ConstantLR(o, factor=1.0), (4, 3), per_epoch=False)


@given(st.integers(2, 12), st.integers(2, 15), st.data())
def test_warmup_in_front_of_cosine(steps, epochs, data):
    """torch's LinearLR from 1/n to 1 in n steps, then its cosine over what is left."""
    n = data.draw(st.integers(2, steps * epochs - 1))

    def make(o):
        rising = L.LinearLR(o, start_factor=1 / n, total_iters=n - 1)
        falling = L.CosineAnnealingLR(o, steps * epochs - n, eta_min=0.1)
        return L.SequentialLR(o, [rising, falling], milestones=[n])

    assert_same(Cosine(min_lr_ratio=0.1, warmup_epochs=n / steps), make, (steps, epochs), per_epoch=False)


@given(steps_and_epochs, share)
def test_cosine(size, final):
    total = math.prod(size)
    assert_same(
        Cosine(min_lr_ratio=final), lambda o: L.CosineAnnealingLR(o, total, eta_min=final), size, per_epoch=False
    )


@given(steps_and_epochs, st.integers(1, 5), st.integers(1, 3), share)
def test_cosine_with_restarts(size, first, growth, final):
    def make(o):
        return L.CosineAnnealingWarmRestarts(o, first * size[0], growth, eta_min=final)

    assert_same(CosineRestarts(t_0=first, t_mult=growth, min_lr_ratio=final), make, size, per_epoch=False)


@given(steps_and_epochs, st.floats(0.3, 4))
def test_polynomial(size, power):
    total = math.prod(size)
    assert_same(Polynomial(power=power), lambda o: L.PolynomialLR(o, total, power), size, per_epoch=False)


def test_polynomial_ends_at_min_lr_ratio():
    """torch's ends at 0; the floor is that of Chen et al.'s own code: (1 - end) * (1 - t)^power + end."""
    expected = [0.8 * (1 - step / 20) ** 2 + 0.2 for step in range(20)]
    np.testing.assert_allclose(curve(Polynomial(power=2, min_lr_ratio=0.2), 4, 5), expected)


@given(steps_and_epochs, st.floats(0.01, 0.99), st.floats(1, 50), st.floats(1, 1e4), st.sampled_from(["cos", "linear"]))
def test_one_cycle(size, pct_start, div_factor, final_div_factor, anneal):
    total = math.prod(size)
    if abs(pct_start * total - 1) < 1e-9:
        return  # torch divides by zero there

    def make(o):
        return L.OneCycleLR(
            o, 1.0, total, pct_start=pct_start, anneal_strategy=anneal, cycle_momentum=False,
            div_factor=div_factor, final_div_factor=final_div_factor,
        )  # fmt: skip

    part = OneCycle(pct_start=pct_start, div_factor=div_factor, final_div_factor=final_div_factor, anneal=anneal)
    assert_same(part, make, size, per_epoch=False)


def test_one_cycle_without_a_rise_begins_at_the_top():
    assert curve(OneCycle(pct_start=0), 4, 2)[0] == pytest.approx(1, abs=0.1)
    assert curve(OneCycle(pct_start=0.5), 1, 2) == [1.0, 1 / 25e4]
    assert curve(OneCycle(), 1, 1)[0] <= 1


@given(steps_and_epochs, st.integers(1, 6), gammas)
def test_step(size, every, gamma):
    assert_same(Step(step_size=every, gamma=gamma), lambda o: L.StepLR(o, every, gamma), size, per_epoch=True)


@given(steps_and_epochs, st.sets(st.integers(1, 15), min_size=1), gammas)
def test_multi_step(size, milestones, gamma):
    rising = tuple(sorted(milestones))
    part = MultiStep(milestones=rising, gamma=gamma)
    part.check()
    assert_same(part, lambda o: L.MultiStepLR(o, rising, gamma), size, per_epoch=True)


@given(steps_and_epochs, gammas)
def test_exponential(size, gamma):
    assert_same(Exponential(gamma=gamma), lambda o: L.ExponentialLR(o, gamma), size, per_epoch=True)


@given(
    st.lists(st.floats(0.001, 10) | st.sampled_from([math.nan, 1.0, 1.001]), max_size=40),
    st.integers(0, 4),
    st.integers(0, 3),
    st.sampled_from([0.0, 1e-4, 0.1]),
    st.sampled_from(["val/loss", "val/accuracy", "val/nll", "val/ece", "val/f1"]),
)
def test_plateau(values, patience, cooldown, threshold, metric):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    mode = "max" if metric in ("val/accuracy", "val/f1") else "min"
    reference = L.ReduceLROnPlateau(optimizer, mode, 0.5, patience, threshold, "rel", cooldown, min_lr=0.01, eps=0.0)
    part = Plateau(
        factor=0.5, patience=patience, threshold=threshold, cooldown=cooldown, min_lr_ratio=0.01, monitor=metric
    )  # fmt: skip
    history = []
    assert part(Clock(0, 3, 100), history) == 1.0
    for epoch, value in enumerate(values, 1):
        history.append({metric: value})
        reference.step(value)
        for step in range(3):
            got = part(Clock(3 * epoch + step, 3, 100), history)
            assert got == pytest.approx(optimizer.param_groups[0]["lr"])


def test_epochs_of_the_warmup_are_not_epochs_without_improvement():
    part = Plateau(factor=0.5, patience=1, warmup_epochs=3, monitor="val/loss")
    rising = [{"val/loss": 1.0 + 0.1 * epoch} for epoch in range(6)]
    multipliers = [part(Clock(3 * epoch, 3, 100), rising[:epoch]) for epoch in range(3, 7)]
    assert multipliers == [1.0, 1.0, 0.5, 0.5]
    better = [{"val/loss": 0.5}, *rising]  # what was reached during the warmup is what has to be surpassed
    assert part(Clock(3 * 7, 3, 100), better) == 0.25


ONE_OF_EACH = [
    Constant(), Cosine(min_lr_ratio=0.1), CosineRestarts(t_0=2), Polynomial(power=2), OneCycle(), Step(step_size=2),
    MultiStep(milestones=(1, 4)), Exponential(), Plateau(),
]  # fmt: skip
each = pytest.mark.parametrize("part", ONE_OF_EACH, ids=lambda part: part.label())


def test_one_of_each_is_here():
    from core.declare.tree import choices

    ours = {name for name, kind in choices(Schedule).items() if kind.__module__.startswith("core.")}  # no other test's
    assert {type(part).__name__ for part in ONE_OF_EACH} == ours


@each
def test_warmup_rises_in_a_line_to_1_and_the_schedule_follows(part):
    got = curve(part.but({"warmup_epochs": 2}), 5, 10)
    np.testing.assert_allclose(got[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(got[10:], curve(part, 5, 8))


@each
def test_a_multiplier_is_never_above_1_nor_below_0_and_a_fraction_of_an_epoch_may_warm_up(part):
    for warmup in (0, 0.3, 2.5, 100):
        got = curve(part.but({"warmup_epochs": warmup}), 7, 6)
        assert min(got) >= 0
        assert max(got) <= 1 + 1e-12


@each
def test_it_reads_back_and_is_chosen_by_name(part):
    assert Schedule.read(part.record()) == part
    assert type(Schedule.read(type(part).__name__)) is type(part)


@pytest.mark.parametrize(
    "record",
    [
        {"class": "Step", "every": 0},
        {"class": "Step", "gamma": 0},
        {"class": "Exponential", "gamma": 1.1},
        {"class": "CosineRestarts", "first": 0},
        {"class": "CosineRestarts", "t_mult": 0},
        {"class": "Polynomial", "power": 0},
        {"class": "OneCycle", "pct_start": 1},
        {"class": "OneCycle", "div_factor": 0.5},
        {"class": "OneCycle", "anneal": "cosine"},
        {"class": "Plateau", "factor": 1},
        {"class": "Plateau", "metric": "train/loss"},
        {"class": "Cosine", "warmup_epochs": -1},
    ],
    ids=str,
)
def test_fields_refuse_bad_values(record):
    with pytest.raises(UserError):
        Schedule.read(record)


@pytest.mark.parametrize("milestones", [(), (0, 3), (5, 3), (3, 3)])
def test_milestones_that_do_not_rise_are_refused(milestones):
    with pytest.raises(ValueError, match="milestones must be an increasing"):
        MultiStep(milestones=milestones).check()
