"""Evidence: for five kinds of runs, every metric on record is the one computed from the answers, and torchmetrics
and scikit-learn say the same of these answers.

The answers are kept in float32 here, so that nothing but the metrics is compared. What half precision changes is in
tests/core/inference/test_answers.py.
"""

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn

from core.inference import answers as answers_file
from core.inference.answers import OUT_OF_FOLD, read
from core.launch import Launch
from core.loading.folds import Folds
from core.losses import BinaryCrossEntropy
from core.metrics import AUROC, AveragePrecision, Brier, CohenKappa, MatthewsCorrCoef, TopK
from core.metrics.by_name import compute
from core.metrics.classification import THRESHOLDS
from core.optimizers.averaging import Ema
from core.runs import ensemble as ensembles
from core.runs.ensemble import ensemble
from core.runs.seeds import train_folds
from core.runs.train import train
from core.runs.trainer import Trainer
from data import ImageTable
from experiments.tiny import EXPERIMENT
from tests.support.optional import library
from tests.support.samples import table_of_labels

QUIET = Launch(mlflow=False, threads=1)
DECLARED = (AUROC(), AveragePrecision(), Brier(), CohenKappa(), MatthewsCorrCoef(), TopK(k=2))
SHORT = EXPERIMENT.but({"epochs": 4, "batch_size": 16, "limit": 200, "model.widths": (8, 16), "metrics": DECLARED})
KINDS = ("single-label", "multi-label", "tta and ema", "ensemble", "folds")
NOT_OF_ANSWERS = ("loss",)  # it has label smoothing; of an ensemble, nll


def of_labels(folder):
    """A run on 200 digits that are even, large, both or neither."""
    table = table_of_labels(folder)
    data = {"data": ImageTable(size=8, multi_label=True), "loss": BinaryCrossEntropy(), "monitor": "val/map"}
    fields = data | {"metrics": (AUROC(), AveragePrecision())}
    return train(SHORT.but(fields), Launch(mlflow=False, threads=1, root=table))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """{kind: (answers, {name of a metric: value on record})}"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(Trainer, "_report", lambda self, journal: None)  # most of the time of so short a training
        patch.setattr(answers_file, "KEPT_AS", np.float32)
        patch.setattr(ensembles, "chosen", lambda answers, metric, size: [2, *[1] * len(answers[1:])])
        single = train(SHORT, QUIET)
        averaged = train(SHORT.but({"tta": "flip", "ema": Ema(decay=0.9)}), QUIET)
        made = {"single-label": single, "multi-label": of_labels(tmp_path_factory.mktemp("table"))}
        made |= {"tta and ema": averaged, "ensemble": ensemble([single, averaged]).run}
        made |= {"folds": train_folds(SHORT, Folds(2), QUIET, "tiny").parent}
        yield {kind: of_run(run, OUT_OF_FOLD if kind == "folds" else "test") for kind, run in made.items()}


def of_run(run, split):
    own = {name.removeprefix(f"{split}/"): value for name, value in run.metrics.items() if name.startswith(f"{split}/")}
    return read(run, split), own


def of_scikit_learn(answers):
    """{name: value} of the metrics that scikit-learn has."""
    scores, targets = answers.probabilities, answers.targets
    if answers.multi_label:
        binned = np.minimum((scores.astype(np.float32) * THRESHOLDS).astype(int), THRESHOLDS - 1)
        return {
            "accuracy": sklearn.accuracy_score(targets, scores >= 0.5),
            "f1": sklearn.f1_score(targets, scores >= 0.5, average="macro"),
            "map": sklearn.average_precision_score(targets, binned, average="macro"),
            "average_precision": sklearn.average_precision_score(targets, scores, average="macro"),
            "auroc": sklearn.roc_auc_score(targets, scores, average="macro"),
        }
    predicted, labels = answers.predicted, np.arange(len(answers.classes))
    macro = {"average": "macro", "zero_division": 0}
    return {
        "accuracy": sklearn.accuracy_score(targets, predicted),
        "balanced_accuracy": sklearn.balanced_accuracy_score(targets, predicted),
        "precision": sklearn.precision_score(targets, predicted, **macro),
        "recall": sklearn.recall_score(targets, predicted, **macro),
        "f1": sklearn.f1_score(targets, predicted, **macro),
        "nll": sklearn.log_loss(targets, scores, labels=labels),
        "top5": sklearn.top_k_accuracy_score(targets, scores, k=5, labels=labels),
        "top2": sklearn.top_k_accuracy_score(targets, scores, k=2, labels=labels),
        "auroc": sklearn.roc_auc_score(targets, scores, multi_class="ovr", labels=labels),
        "average_precision": sklearn.average_precision_score(np.eye(len(labels))[targets], scores, average="macro"),
        "cohen_kappa": sklearn.cohen_kappa_score(targets, predicted),
        "matthews_corrcoef": sklearn.matthews_corrcoef(targets, predicted),
    }


def of_torchmetrics(answers):
    theirs = library("torchmetrics", extra="metrics").functional.classification
    scores, targets, classes = torch.from_numpy(answers.probabilities), answers.targets, len(answers.classes)
    targets = torch.from_numpy(targets).long()
    if answers.multi_label:
        return {
            "accuracy": theirs.multilabel_exact_match(scores, targets, classes),
            "f1": theirs.multilabel_f1_score(scores, targets, classes),
            "average_precision": theirs.multilabel_average_precision(scores, targets, classes),
            "auroc": theirs.multilabel_auroc(scores, targets, classes),
        }
    return {
        "accuracy": theirs.multiclass_accuracy(scores, targets, classes, average="micro"),
        "balanced_accuracy": theirs.multiclass_accuracy(scores, targets, classes),
        "precision": theirs.multiclass_precision(scores, targets, classes),
        "recall": theirs.multiclass_recall(scores, targets, classes),
        "f1": theirs.multiclass_f1_score(scores, targets, classes),
        "ece": theirs.multiclass_calibration_error(scores, targets, classes, n_bins=15),
        "top5": theirs.multiclass_accuracy(scores, targets, classes, average="micro", top_k=5),
        "top2": theirs.multiclass_accuracy(scores, targets, classes, average="micro", top_k=2),
        "auroc": theirs.multiclass_auroc(scores, targets, classes),
        "average_precision": theirs.multiclass_average_precision(scores, targets, classes),
        "cohen_kappa": theirs.multiclass_cohen_kappa(scores, targets, classes),
        "matthews_corrcoef": theirs.multiclass_matthews_corrcoef(scores, targets, classes),
    }


def named(name):
    """As `compute` takes the name of a metric on record."""
    return ("TopK", {"k": 2}) if name == "top2" else (name, {})


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_on_record_are_those_of_the_answers(found, kind):
    answers, own = found[kind]
    of_answers = {name: compute(answers, *named(name)) for name in own if name not in NOT_OF_ANSWERS}
    assert len(of_answers) >= 5
    apart = {name: abs(value - own[name]) for name, value in of_answers.items()}
    others = {"scikit-learn": of_scikit_learn(answers), "torchmetrics": of_torchmetrics(answers)}
    lines = [("record", apart)]
    for library_name, theirs in others.items():
        lines.append((library_name, {n: abs(float(v) - compute(answers, *named(n))) for n, v in theirs.items()}))
    for what, differences in lines:
        worst = max(differences, key=differences.get)
        print(
            f"{kind:13} {what:13} {len(differences):3} metrics, largest difference {differences[worst]:.1e} ({worst})"
        )
    for what, differences in lines:
        assert max(differences.values()) < 1e-6, (what, differences)
