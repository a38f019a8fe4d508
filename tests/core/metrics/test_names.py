"""Directions of metrics: known for those that labbook and other programs log, and otherwise not guessed."""

from typing import get_args

import pytest

from core.metrics.names import FRACTIONS, MetricName, direction, is_fraction, sign, step_between
from core.search.options import COSTS


def test_every_metric_and_cost_of_labbook_has_a_direction():
    assert {name: direction(name) for name in COSTS} == dict.fromkeys(COSTS, -1)
    for name in get_args(MetricName):
        fraction = name.removeprefix("val/") in FRACTIONS
        assert direction(name) == (1 if fraction else -1)
        assert direction(name.replace("val/", "test/")) == direction(name)


@pytest.mark.parametrize(
    ("better", "names"),
    [
        (
            -1,
            "seconds peak_memory_mb val_error val/error test_err1 error_rate val_mse brier eval.loss_epoch",
        ),
        (
            -1,
            "perplexity train_loss loss val_mean_squared_error epoch_time report/ece_at_temperature FID",
        ),
        (
            1,
            "images_per_second val_acc eval_top1 acc@1 val_f1_macro val_binary_accuracy mAP val_AUROC test/r2_score",
        ),
    ],
)
def test_common_names_of_other_programs_are_known(better, names):
    assert {name: direction(name) for name in names.split()} == dict.fromkeys(names.split(), better)


@pytest.mark.parametrize(
    "name", ["lr", "time_to_accuracy", "accuracy_drop", "val/fun", "neg_mean_squared_error", "", "/"]
)
def test_a_direction_is_not_guessed(name):
    assert direction(name) is None
    with pytest.raises(ValueError, match="not known"):
        sign(name)


def test_metrics_of_single_tasks_are_fractions_as_those_of_all_are():
    assert [n for n in ("accuracy_digit", "exact_match", "f1", "loss_digit", "nll", "accurate") if is_fraction(n)] == [
        "accuracy_digit",
        "exact_match",
        "f1",
    ]


@pytest.mark.parametrize(
    ("metric", "images", "step"),
    [
        ("val/accuracy", 72, 1 / 72),
        ("test/top5", 100, 0.01),
        ("val/f1", 72, 0),
        ("val/loss", 72, 0),
        ("val/accuracy", 0, 0),
    ],
)
def test_shares_of_images_have_a_fixed_step(metric, images, step):
    assert step_between(metric, images) == step
