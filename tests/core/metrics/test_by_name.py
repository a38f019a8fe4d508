"""Metrics by name are those that are measured in training, scikit-learn's and torchmetrics', from answers alone."""

import numpy as np
import pytest
import sklearn.metrics as S
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from core.common.errors import UserError
from core.metrics import answers as module
from core.metrics.answers import Answers, bounded, identity, joined
from core.metrics.by_name import OWN, compute
from core.metrics.task import MULTI_LABEL, SINGLE_LABEL


def made(n, classes, seed=0):
    random = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(classes), random.integers(0, classes, n - classes)])
    logits = random.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), targets] += 1.5
    return logits, targets


def answers_of(logits, targets):
    classes = tuple(f"c{label}" for label in range(logits.shape[1]))
    ids = np.array([f"{row:016x}" for row in range(len(targets))])
    return bounded("test", classes, ids, targets, logits)


@given(st.integers(2, 12), st.integers(0, 5))
def test_metrics_of_answers_are_those_of_training(classes, seed):
    logits, targets = made(60, classes, seed)
    table, sums = SINGLE_LABEL.count(torch.from_numpy(logits).double(), torch.from_numpy(targets))
    trained = SINGLE_LABEL.summary(table, torch.cat([torch.zeros(1), sums]))
    found = answers_of(logits, targets)
    for name in {*trained} & {*OWN}:
        assert compute(found, name) == pytest.approx(trained[name], abs=1e-6), name


def test_further_metrics_are_scikit_learns_and_torchmetrics():
    logits, targets = made(300, 7)
    found, p = answers_of(logits, targets), torch.from_numpy(logits).double().softmax(dim=1).numpy()
    predicted = p.argmax(axis=1)
    assert compute(found, "auroc") == pytest.approx(S.roc_auc_score(targets, p, multi_class="ovr"))
    assert compute(found, "cohen_kappa") == pytest.approx(S.cohen_kappa_score(targets, predicted))
    assert compute(found, "matthews_corrcoef") == pytest.approx(S.matthews_corrcoef(targets, predicted))
    assert compute(found, "brier") == pytest.approx(((p - np.eye(7)[targets]) ** 2).sum(axis=1).mean())
    each = [S.average_precision_score(targets == label, p[:, label]) for label in range(7)]
    assert compute(found, "average_precision") == pytest.approx(np.mean(each))
    assert compute(found, "MulticlassAUROC") == pytest.approx(compute(found, "auroc"), abs=1e-5)
    expected = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(targets), 7, n_bins=10, norm="max")
    given = {"n_bins": 10, "norm": "max"}
    assert compute(found, "MulticlassCalibrationError", given) == pytest.approx(float(expected), abs=1e-5)


def test_with_many_classes_the_largest_logits_are_kept(monkeypatch):
    logits, targets = made(200, 12)
    whole = answers_of(logits, targets)
    monkeypatch.setattr(module, "MOST_CLASSES", 10)
    monkeypatch.setattr(module, "KEPT", 6)
    few = answers_of(logits, targets)
    assert few.logits.shape == (200, 6)
    for name in ("accuracy", "f1", "top5", "nll", "ece", "cohen_kappa"):
        assert compute(few, name) == pytest.approx(compute(whole, name), abs=1e-6), name
    with pytest.raises(UserError, match="auroc: it needs the probabilities of all classes; of 12 classes, 6 are kept"):
        compute(few, "auroc")


def test_nearly_equal_logits_keep_their_order_in_half_precision():
    logits = np.array([[50.0, 50.0001], [50.0001, 50.0]], np.float32)
    found = answers_of(logits, np.array([1, 0]))
    assert found.logits.astype(np.float16).argmax(axis=1).tolist() == [1, 0]


def test_parts_joined_and_ordered_are_the_whole():
    logits, targets = made(50, 5)
    whole = answers_of(logits, targets)
    parts = [whole.in_order(np.arange(start, min(start + 20, 50))) for start in (0, 20, 40)]
    again = joined(parts)
    assert np.array_equal(again.logits, whole.logits)
    assert again.ids.tolist() == whole.ids.tolist()


def test_multi_label_answers_are_measured_by_label():
    random = np.random.default_rng(0)
    targets = (random.random((200, 4)) < 0.4).astype(np.float32)
    logits = (random.normal(size=(200, 4)) + 2 * targets).astype(np.float32)
    found = Answers("val", tuple("abcd"), np.arange(200).astype(str), targets, logits)
    table, sums = MULTI_LABEL.count(torch.from_numpy(logits), torch.from_numpy(targets))
    trained = MULTI_LABEL.summary(table, torch.cat([torch.zeros(1), sums]))
    for name in ("accuracy", "map", "f1"):
        assert compute(found, name) == pytest.approx(trained[name])
    each = [S.roc_auc_score(targets[:, label], logits[:, label]) for label in range(4)]
    assert compute(found, "auroc") == pytest.approx(np.mean(each))


def test_what_cannot_be_computed_is_said():
    logits, targets = made(40, 4)
    found = answers_of(logits, targets)
    for name, message in (
        ("acuracy", "acuracy: unknown metric; did you mean accuracy"),
        ("MulticlassAUROCC", "unknown metric; did you mean MulticlassAUROC"),
        ("MulticlassConfusionMatrix", "MulticlassConfusionMatrix: it is not a single number"),
        ("MulticlassROC", "MulticlassROC: it is not a single number"),
    ):
        with pytest.raises(UserError, match=message):
            compute(found, name)
    with pytest.raises(UserError, match=r"MulticlassAUROC: .*averag"):
        compute(found, "MulticlassAUROC", {"averag": "macro"})
    lacking = answers_of(logits[targets != 2], targets[targets != 2])
    with pytest.raises(UserError, match="auroc is not defined for these answers: test has no image of c2"):
        compute(lacking, "auroc")


def test_the_same_image_has_one_id():
    image = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert identity(image) == identity(np.asfortranarray(image))
    assert len(identity(image)) == 16
    assert identity(image) != identity(image.reshape(6, 4, 3))
