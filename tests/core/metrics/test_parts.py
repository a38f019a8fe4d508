"""Metrics that a declaration may name: the values of scikit-learn and torchmetrics, and what is refused."""

import math
import sys

import numpy as np
import pytest
import sklearn.metrics as S
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import classification as T

from core.common.errors import UserError
from core.metrics import AUROC, AveragePrecision, Brier, CohenKappa, MatthewsCorrCoef, TopK, Torchmetric
from core.metrics.answers import Answers, bounded
from core.metrics.base import measured, undefined
from core.metrics.by_name import compute
from core.metrics.names import direction

PARTS = (AUROC(), AveragePrecision(), Brier(), CohenKappa(), MatthewsCorrCoef(), TopK(k=3))


def made(n, classes, seed=0, split="test"):
    random = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(classes), random.integers(0, classes, n - classes)])
    logits = random.normal(size=(n, classes)) + np.eye(classes)[targets]
    ids = np.array([f"{row:016x}" for row in range(n)])
    return bounded(split, tuple(f"c{label}" for label in range(classes)), ids, targets, logits)


def several(n=200, labels=4, seed=0):
    random = np.random.default_rng(seed)
    targets = (random.random((n, labels)) < 0.4).astype(np.float32)
    logits = (random.normal(size=(n, labels)) + 2 * targets).astype(np.float32)
    return Answers("val", tuple("abcdefgh"[:labels]), np.arange(n).astype(str), targets, logits)


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(0, 9))
def test_values_are_those_of_scikit_learn_and_torchmetrics(classes, seed):
    answers = made(60, classes, seed)
    targets, predicted = answers.targets, answers.predicted
    scores = torch.from_numpy(answers.logits).double().softmax(dim=1)
    each_error = (scores.numpy() - np.eye(classes)[targets]) ** 2
    found = measured(PARTS, answers)
    rest = scores.numpy()[:, 1] if classes == 2 else scores.numpy()
    assert found["auroc"] == pytest.approx(S.roc_auc_score(targets, rest, multi_class="ovr"), abs=1e-12)
    each = [S.average_precision_score(targets == label, scores[:, label]) for label in range(classes)]
    assert found["average_precision"] == pytest.approx(np.mean(each), abs=1e-12)
    assert found["brier"] == pytest.approx(each_error.sum(axis=1).mean(), abs=1e-12)
    assert found["cohen_kappa"] == pytest.approx(S.cohen_kappa_score(targets, predicted), abs=1e-12)
    assert found["matthews_corrcoef"] == pytest.approx(S.matthews_corrcoef(targets, predicted), abs=1e-12)
    if classes > 3:
        assert found["top3"] == S.top_k_accuracy_score(targets, scores.numpy(), k=3, labels=np.arange(classes))
    theirs = T.multiclass_auroc(scores.float(), torch.from_numpy(targets), classes)
    assert Torchmetric(name="MulticlassAUROC").value(answers) == pytest.approx(float(theirs), abs=1e-6)
    assert found["auroc"] == pytest.approx(float(theirs), abs=1e-5)


def test_values_of_labels_are_those_of_scikit_learn_and_torchmetrics():
    answers = several()
    targets, scores = answers.targets, 1 / (1 + np.exp(-answers.logits.astype(float)))
    assert AUROC().value(answers) == pytest.approx(S.roc_auc_score(targets, scores, average="macro"))
    expected = S.average_precision_score(targets, scores, average="macro")
    assert AveragePrecision().value(answers) == pytest.approx(expected)
    theirs = T.multilabel_fbeta_score(torch.from_numpy(scores).float(), torch.from_numpy(targets).long(), 2.0, 4)
    found = Torchmetric(name="MultilabelFBetaScore", arguments={"beta": 2.0})
    assert found.value(answers) == pytest.approx(float(theirs), abs=1e-6)
    assert compute(answers, "MultilabelFBetaScore", {"beta": 2.0}) == pytest.approx(float(theirs), abs=1e-6)
    with pytest.raises(UserError, match="CohenKappa: it supports only single-label images"):
        compute(answers, "CohenKappa")


def test_names_and_directions():
    named = {part.label(): part.direction() for part in PARTS}
    assert named == {
        "auroc": 1, "average_precision": 1, "brier": -1, "cohen_kappa": 1, "matthews_corrcoef": 1, "top3": 1,
    }  # fmt: skip
    assert all(direction(f"test/{name}") in (better, None) for name, better in named.items())
    for name, label, better in (
        ("MulticlassAUROC", "multiclass_auroc", 1),
        ("MulticlassCalibrationError", "multiclass_calibration_error", -1),
        ("MulticlassSpecificity", "multiclass_specificity", 1),  # torchmetrics does not say it
        ("MulticlassEER", "multiclass_eer", None),
    ):
        assert Torchmetric(name=name).label() == label
        assert Torchmetric(name=name).direction() == better


@pytest.mark.parametrize(
    "part", [AUROC(), AveragePrecision(), Torchmetric(name="MulticlassAUROC")], ids=lambda part: part.label()
)
def test_what_needs_every_class_is_left_out_where_one_is_absent(part):
    whole = made(80, 5)
    lacking = whole.in_order(np.flatnonzero(whole.targets != 2))
    assert part.label() in measured([part], whole)
    assert measured([part], lacking) == {}
    assert undefined(lacking) == "test has no image of c2"
    labels = several()
    always = labels.in_order(np.flatnonzero(labels.targets[:, 1]))
    assert undefined(always) == "each image of val is of b"
    assert measured([AUROC()], always) == {}


def test_logits_that_are_no_numbers_give_metrics_that_are_none():
    answers = made(40, 4)
    answers.logits[3, 1] = math.nan
    assert all(math.isnan(value) for value in measured(PARTS, answers).values())
    assert [*measured(PARTS, answers)] == [part.label() for part in PARTS]


def test_of_more_than_a_hundred_classes_the_kept_ones_suffice_or_it_is_said():
    answers = made(300, 120)
    assert answers.logits.shape == (300, 20)
    assert 0 < TopK(k=2).value(answers) < TopK(k=20).value(answers) <= 1
    with pytest.raises(UserError, match="of 120 classes, 20 are kept"):
        AUROC().value(answers)


def test_without_torchmetrics_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[metrics\]"'):
        Torchmetric(name="MulticlassAUROC").check()
    with pytest.raises(UserError, match="MulticlassAUROC: torchmetrics is not installed"):
        compute(made(20, 3), "MulticlassAUROC")
    assert compute(made(20, 3), "auroc") > 0
