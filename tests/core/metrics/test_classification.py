"""Metrics against scikit-learn and torchmetrics; that sums over parts add up to those of the whole."""

import math

import numpy as np
import pytest
import sklearn.metrics as S
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    multiclass_calibration_error,
    multilabel_average_precision,
    multilabel_f1_score,
)

from core.loading.batches import Plan
from core.loading.images import Images
from core.loading.loader import Resident
from core.metrics.classification import (
    THRESHOLDS,
    by_class,
    from_confusion,
    from_likelihood,
    from_scores,
    likelihood,
    score_table,
)
from core.metrics.confusion import confusion, margins
from core.metrics.task import MULTI_LABEL, SINGLE_LABEL
from core.training.evaluate import evaluate

CPU = torch.device("cpu")


def made(n, classes, seed=0, sharpness=2.0):
    random = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (n,), generator=random)
    logits = torch.randn(n, classes, generator=random)
    return sharpness * (logits + F.one_hot(targets, classes)), targets


tables = st.integers(1, 6).flatmap(
    lambda c: st.lists(st.lists(st.integers(0, 9), min_size=c, max_size=c), min_size=c, max_size=c)
)


@given(tables)
@example([[3, 1, 0], [0, 0, 0], [0, 2, 5]])
@example([[3, 0, 1], [0, 0, 0], [2, 0, 5]])
def test_what_follows_from_the_confusion_table_is_scikit_learns(rows):
    """Classes that are never true, never predicted, or neither, among them."""
    table = torch.tensor(rows)
    assume(table.sum() > 0)
    true, predicted = np.indices(table.shape).reshape(2, -1).repeat(table.flatten().numpy(), axis=1)
    got = from_confusion(table)
    assert from_confusion(table.to_sparse()) == got
    assert got["accuracy"] == pytest.approx(S.accuracy_score(true, predicted))
    each_recall = S.recall_score(true, predicted, average=None, labels=np.unique(true), zero_division=0)
    assert got["balanced_accuracy"] == pytest.approx(each_recall.mean())
    for name, score in (("precision", S.precision_score), ("recall", S.recall_score), ("f1", S.f1_score)):
        assert got[name] == pytest.approx(score(true, predicted, average="macro", zero_division=0)), name
    expected = S.precision_recall_fscore_support(true, predicted, labels=range(len(table)), zero_division=0)[:3]
    np.testing.assert_allclose(by_class(margins(table)), np.stack(expected, axis=1))


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("sharpness", [0.1, 2.0, 20.0], ids=["vague", "fair", "sure"])
def test_calibration_and_likelihood_are_torchs(classes, sharpness):
    logits, targets = made(2000, classes, sharpness=sharpness)
    got = from_likelihood(likelihood(logits, targets))
    expected = multiclass_calibration_error(logits.softmax(dim=1), targets, classes, n_bins=15)
    assert got["ece"] == pytest.approx(expected.item(), abs=1e-5)
    assert got["nll"] == pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-5)


def test_calibration_errors_known_in_advance():
    sure = torch.tensor([[100.0, 0.0]]).repeat(10, 1)
    assert from_likelihood(likelihood(sure, torch.zeros(10, dtype=torch.int64)))["ece"] == pytest.approx(0)
    assert from_likelihood(likelihood(sure, torch.ones(10, dtype=torch.int64)))["ece"] == pytest.approx(1)
    eighty = torch.tensor([[math.log(0.8), math.log(0.2)]]).repeat(10, 1)
    targets = torch.tensor([0] * 6 + [1] * 4)  # says 80 %, is right in 60 %
    assert from_likelihood(likelihood(eighty, targets))["ece"] == pytest.approx(0.2)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 100))
def test_sums_over_parts_add_up_to_the_metrics_of_the_whole(sizes, seed):
    """So a split may be divided among batches and processes as one likes."""
    logits, targets = made(sum(sizes), 4, seed)
    parts = list(zip(logits.split(sizes), targets.split(sizes), strict=True))

    def sums(logits, targets):
        return torch.cat([torch.tensor([float(len(targets)), 0.0]), likelihood(logits, targets)]).double()

    whole = SINGLE_LABEL.summary(confusion(logits, targets), sums(logits, targets))
    added = SINGLE_LABEL.summary(sum(confusion(*part) for part in parts), sum(sums(*part) for part in parts))
    assert added == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert whole["loss"] == 1


def test_logits_that_are_no_numbers_show_in_the_likelihood_and_break_nothing():
    logits = torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [1.0, 0.0]])
    got = from_likelihood(likelihood(logits, torch.zeros(3, dtype=torch.int64)))
    assert math.isnan(got["nll"])
    assert 0 <= got["ece"] <= 1


def test_evaluate_reports_them_all_over_several_batches():
    logits, targets = made(300, 7)
    images = Images(np.arange(300, dtype=np.uint16)[:, None, None, None], np.arange(300), targets.numpy())
    batches = Resident(Plan(300, 64, shuffled=False), torch.from_numpy(images.pixels), torch.arange(300), targets)

    class Known(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))  # shows where the model is

        def forward(self, images):
            return logits[images.flatten().long()]

    result = evaluate(
        Known(), lambda z, t: F.cross_entropy(z, t, reduction="none"), batches, lambda batch: batch, 7, SINGLE_LABEL
    )
    predicted = logits.argmax(dim=1)
    assert set(result.metrics) == {
        "loss", "accuracy", "top5", "balanced_accuracy", "precision", "recall", "f1", "nll", "ece",
    }  # fmt: skip
    assert result.metrics["loss"] == pytest.approx(result.metrics["nll"], rel=1e-6)
    assert result.metrics["balanced_accuracy"] == pytest.approx(S.balanced_accuracy_score(targets, predicted))
    assert result.metrics["f1"] == pytest.approx(S.f1_score(targets, predicted, average="macro"))
    assert result.metrics["top5"] == pytest.approx(S.top_k_accuracy_score(targets, logits, k=5))
    expected = multiclass_calibration_error(logits.softmax(dim=1), targets, 7, n_bins=15)
    assert result.metrics["ece"] == pytest.approx(expected.item(), abs=1e-6)
    assert (result.table.numpy() == S.confusion_matrix(targets, predicted)).all()


def several(n=500, labels=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    targets = (torch.rand(n, labels, generator=random) < torch.linspace(0.02, 0.8, labels)).float()
    return torch.randn(n, labels, generator=random) + 1.5 * (targets - 0.5), targets


@pytest.mark.parametrize("seed", range(3))
def test_mean_average_precision_and_f1_of_several_labels(seed):
    logits, targets = several(seed=seed)
    got = from_scores(score_table(logits, targets))
    rounded = (logits.sigmoid() * THRESHOLDS).floor() / THRESHOLDS
    exact = S.average_precision_score(targets.numpy(), rounded.double().numpy(), average="macro")
    assert got["map"] == pytest.approx(exact, rel=1e-6)
    fine = multilabel_average_precision(logits.sigmoid(), targets.long(), 6, average="macro")
    assert got["map"] == pytest.approx(fine.item(), abs=2e-3)
    assert got["f1"] == pytest.approx(multilabel_f1_score(logits.sigmoid(), targets.long(), 6).item(), abs=1e-6)


def test_several_labels_add_up_too_and_a_label_without_examples_is_left_out():
    logits, targets = several()
    targets[:, 2] = 0
    added = score_table(logits[:123], targets[:123]) + score_table(logits[123:], targets[123:])
    assert torch.equal(added, score_table(logits, targets))
    others = [0, 1, 3, 4, 5]
    exact = S.average_precision_score(targets[:, others].numpy(), logits.sigmoid()[:, others].numpy(), average="macro")
    assert from_scores(added)["map"] == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize(
    ("task", "targets"),
    [(SINGLE_LABEL, torch.tensor([0, 2])), (MULTI_LABEL, torch.tensor([[1.0, 0, 1], [0, 0, 0]]))],
    ids=["single_label", "multi_label"],
)
def test_a_task_measures_what_it_says_that_it_always_measures(task, targets):
    table, sums = task.count(torch.randn(2, 3), targets)
    assert table.shape == task.empty_table(3, CPU).shape
    assert len(sums) == task.sums
    found = task.summary(table, torch.cat([torch.ones(1), sums]))
    assert set(task.always) == {f"val/{name}" for name in found}
    each = task.per_class(table)
    assert each.figures.shape == (len(each.counts), len(each.names)) == (3, len(each.names))
