"""SPACE: what it may hold, what it says of mistakes, how it becomes a change of a declaration."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.augment import HorizontalFlip, Mixup, RandomCrop
from core.common.errors import UserError
from core.losses import CrossEntropy, FocalLoss
from core.optimizers import SGD, AdamW
from core.search import Choice, Float, Int
from core.search.samplers import grid
from core.search.space import changes, check, declared, dimensions, label, text
from experiments.tiny import EXPERIMENT, SPACE

NESTED = {
    "optimizer": Choice(
        SGD(lr=0.1),
        AdamW(),
        within={"SGD": {"lr": Float(0.01, 1.0, log=True)}, "AdamW": {"lr": Float(1e-4, 1e-2, log=True)}},
    ),
    "epochs": Int(1, 9),
}


def first(name, dimension):
    return next(iter(dimension.options)) if isinstance(dimension, Choice) else dimension.low


def last(name, dimension):
    return list(dimension.options)[-1] if isinstance(dimension, Choice) else dimension.high


def test_each_option_of_a_choice_has_its_own_ranges():
    low, high = EXPERIMENT.but(changes(NESTED, first)), EXPERIMENT.but(changes(NESTED, last))
    assert (type(low.optimizer), low.optimizer.lr, low.epochs) == (SGD, 0.01, 1)
    assert (type(high.optimizer), high.optimizer.lr, high.epochs) == (AdamW, 1e-2, 9)
    assert list(dimensions(NESTED)) == ["optimizer", "optimizer.lr (SGD)", "optimizer.lr (AdamW)", "epochs"]


def test_the_declaration_is_found_in_its_own_space():
    found = declared(SPACE, EXPERIMENT)
    changed = changes(SPACE, lambda name, dimension: found[name])
    assert EXPERIMENT.but(changed) == EXPERIMENT


def test_what_the_space_does_not_hold_of_the_declaration_is_left_out():
    space = {"optimizer.lr": Float(0.2, 1.0), "loss": Choice(FocalLoss(), FocalLoss(gamma=1.0)), "epochs": Int(1, 99)}
    assert declared(space, EXPERIMENT) == {"epochs": EXPERIMENT.epochs}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, "0.1"),
        (None, "none"),
        ("bf16", "bf16"),
        ((32, 64), "32,64"),
        ((), "none"),
        (CrossEntropy(), "CrossEntropy"),
        (CrossEntropy(label_smoothing=0.1), "CrossEntropy(label_smoothing=0.1)"),
        ((RandomCrop(padding=2), Mixup()), "RandomCrop(padding=2) + Mixup"),
        ((HorizontalFlip(),), "HorizontalFlip"),
    ],
    ids=str,
)
def test_labels_are_readable(value, expected):
    assert label(value) == expected


WRONG = {
    "unknown_name": ({"optimizer.lrr": Float(0.1, 1)}, r"optimizer.lrr: unknown field; did you mean optimizer.lr"),
    "empty_range": ({"optimizer.lr": Float(1, 0.1)}, r"optimizer.lr: Float\(1, 0.1\) is empty"),
    "one_point": ({"epochs": Int(3, 3)}, "low must be below high"),
    "not_finite": ({"optimizer.lr": Float(0.1, math.inf)}, "both ends must be finite"),
    "log_of_zero": ({"optimizer.lr": Float(0, 1, log=True)}, "low must be above 0"),
    "log_and_step": ({"optimizer.lr": Float(0.1, 1, log=True, step=0.1)}, "cannot be combined"),
    "bad_step": ({"optimizer.lr": Float(0.1, 1, step=0)}, "step must be above 0"),
    "out_of_the_field": ({"loss.label_smoothing": Float(0, 2)}, r"loss.label_smoothing: should be less than"),
    "wrong_type": ({"epochs": Float(0.5, 1.5)}, "epochs"),
    "misfit": ({"loss": Choice(CrossEntropy(), SGD())}, "SGD is not a Loss"),
    "no_option": ({"loss": Choice()}, "has no option"),
    "alike": ({"loss": Choice(CrossEntropy(), CrossEntropy())}, "has two equal options"),
    "within_unknown": (
        {"loss": Choice(FocalLoss(), CrossEntropy(), within={"FocalLos": {}})},
        "unknown option; did you mean FocalLoss",
    ),
    "not_of_every_option": (
        {"loss": Choice(FocalLoss(), CrossEntropy()), "loss.gamma": Float(1, 2)},
        "loss.gamma: unknown field",
    ),
    "nothing": ({}, "is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_space_is_refused_by_name(name):
    space, expected = WRONG[name]
    with pytest.raises(UserError, match=expected):
        check(space, EXPERIMENT)


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(UserError) as caught:
        check({"optimizer.lr": Float(1, 0.1), "epochs": Int(0, 0)}, EXPERIMENT)
    assert len(caught.value.lines) == 2


def test_a_grid_goes_through_what_belongs_together():
    points = list(grid(NESTED))
    assert len(points) == (5 + 5) * 5
    assert all(("optimizer.lr (SGD)" in p) != ("optimizer.lr (AdamW)" in p) for p in points)
    assert len({tuple(p.items()) for p in points}) == len(points)


numbers = st.floats(1e-3, 1e3, allow_nan=False)


@given(low=numbers, high=numbers, log=st.booleans())
def test_a_grid_of_a_range_begins_and_ends_with_it(low, high, log):
    low, high = sorted((low, high))
    values = [point["x"] for point in grid({"x": Float(low, high, log=log)})]
    assert values[0] == low
    assert values[-1] == pytest.approx(high)
    assert all(low <= value <= high for value in values)


def test_two_spaces_are_compared_in_words():
    assert text(NESTED)["optimizer.lr (SGD)"] == "Float(0.01, 1, log)"
    assert text(NESTED)["optimizer"] == "Choice(SGD; AdamW)"


def test_a_space_of_the_wrong_make_is_reported_in_words():
    with pytest.raises(UserError, match=r"SPACE: should be a dictionary.*got a list"):
        check([("optimizer.lr", Float(0.1, 1))], EXPERIMENT)
    with pytest.raises(UserError) as caught:
        check({"optimizer.lr": (0.1, 1), "clip_grad_norm": Float("0.1", 1), "batch_size": Int(8.5, 64)}, EXPERIMENT)
    assert caught.value.lines == [
        "SPACE optimizer.lr: should be a Float, an Int or a Choice (got (0.1, 1))",
        "SPACE clip_grad_norm: low should be a number (got '0.1')",
        "SPACE batch_size: low should be an integer (got 8.5)",
    ]
