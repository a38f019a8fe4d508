"""Several labels at a time, from a table to the record: digits that are even, above four, round, or none of these."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as S
from sklearn.datasets import load_digits

from core import randomness as K
from core.augment import CutMix, HorizontalFlip, Mixup
from core.cli.report import main as report
from core.common import plots
from core.common.errors import DataError, UserError
from core.export.formats import FORMATS, Source
from core.export.graph import served
from core.export.register import register
from core.inference.answers import read
from core.launch import Launch
from core.loading.images import Images, Splits
from core.loading.sampling import ClassBalanced as Balanced
from core.loading.sampling import LabelNoise, LongTail
from core.losses import BinaryCrossEntropy, ClassBalanced, CrossEntropy, Loss
from core.methods import Consistency, WeightPenalty
from core.metrics import AUROC, AveragePrecision, Brier, CohenKappa, MatthewsCorrCoef, TopK, Torchmetric
from core.metrics.task import MULTI_LABEL
from core.models import MLP
from core.models.tta import averaged
from core.record.run import RECORD, REPORT
from core.runs import ensemble
from core.runs.resume import interrupted, resume
from core.runs.train import train
from data import Digits, ImageTable
from experiments.tiny import EXPERIMENT
from tests.support import runs

COUNT = 1000  # digits, of 1,797
LABELS = {"above4": {5, 6, 7, 8, 9}, "even": {0, 2, 4, 6, 8}, "round": {0, 6, 8, 9}}
TABLE = ImageTable(size=8, multi_label=True)
MEASURED = (AUROC(), AveragePrecision(), Torchmetric(name="MultilabelRankingLoss"))
SEVERAL = EXPERIMENT.but(
    {"data": TABLE, "loss": BinaryCrossEntropy(), "monitor": "val/map", "epochs": 4, "metrics": MEASURED}
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    raw = load_digits()
    rows = []
    for i, (pixels, digit) in enumerate(zip(raw.images[:COUNT], raw.target, strict=False)):
        Image.fromarray(np.rint(pixels * 255 / 16).astype(np.uint8)).save(folder / f"{i:04}.png")
        rows.append((f"{i:04}.png", "|".join(name for name, digits in LABELS.items() if digit in digits)))
    with (folder / "digits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("path", "label"), *rows])
    return folder


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
    yield train(SEVERAL, Launch(mlflow=False, threads=1, root=root), "tiny")
    patch.undo()


def test_targets_say_which_labels_each_digit_has(root):
    splits = TABLE.load(root)
    digits = load_digits().target
    assert (splits.classes, splits.multi_label) == (("above4", "even", "round"), True)
    for images in (splits.train, splits.val, splits.test):
        assert images.targets.dtype == np.float32
        expected = [[digits[row] in LABELS[name] for name in splits.classes] for row in images.rows]
        assert np.array_equal(images.targets, np.array(expected))
    counts = np.array([images.counts(3) for images in (splits.train, splits.val, splits.test)])
    assert np.allclose(counts / counts.sum(axis=0), [[0.72], [0.08], [0.2]], atol=0.01)
    assert (splits.test.targets.sum(axis=1) == 0).any()  # 1 and 3 have no label at all
    assert splits.limited(50).train.targets.shape == (50, 3)


def test_digits_are_learnt_and_the_metrics_are_those_of_scikit_learn(trained, root):
    assert trained.metrics["val/map"] > 0.9
    splits = TABLE.load(root)
    scores = trained.predict(splits.test.pixels[splits.test.rows])
    targets = splits.test.targets
    claimed = scores >= 0.5
    precision = S.average_precision_score(targets, scores, average=None)
    assert trained.metrics["test/map"] == pytest.approx(precision.mean(), abs=2e-3)
    assert trained.metrics["test/f1"] == pytest.approx(S.f1_score(targets, claimed, average="macro"), abs=1e-6)
    assert trained.metrics["test/accuracy"] == pytest.approx(S.accuracy_score(targets, claimed), abs=1e-6)
    loss = -(targets * np.log(scores) + (1 - targets) * np.log(1 - scores)).sum(axis=1).mean()
    assert trained.metrics["test/loss"] == pytest.approx(loss, rel=1e-3)
    assert trained.metrics["test/auroc"] == pytest.approx(S.roc_auc_score(targets, scores, average="macro"), abs=1e-6)
    assert trained.metrics["test/average_precision"] == pytest.approx(precision.mean(), abs=1e-6)
    expected = S.label_ranking_loss(targets, scores)
    assert trained.metrics["test/multilabel_ranking_loss"] == pytest.approx(expected, abs=1e-6)
    assert not {"test/nll", "test/ece", "test/top5"} & trained.metrics.keys()
    history = trained.history
    assert history["train/accuracy"][1] < history["train/accuracy"][4] <= 1
    best = max(history["val/map"], key=history["val/map"].__getitem__)
    assert trained.tags["best_epoch"] == str(best)
    with (trained.folder / "artifacts/per_class.csv").open() as stream:
        each = list(csv.DictReader(stream))
    assert [row["class"] for row in each] == list(splits.classes)
    assert [int(row["images"]) for row in each] == list(splits.test.counts(3))
    assert [float(row["average_precision"]) for row in each] == pytest.approx(precision, abs=2e-3)
    assert [float(row["recall"]) for row in each] == pytest.approx(
        S.recall_score(targets, claimed, average=None), abs=1e-6
    )


def test_training_counts_whole_sets_of_labels_and_the_sheet_names_them(root, monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "contact_sheet", lambda pixels, titles, path: (shown.extend(titles), path.touch()))
    splits = TABLE.load(root)
    still = {"model": MLP(), "augment": (), "optimizer.lr": 1e-12, "batch_size": len(splits.train), "epochs": 1}
    run = train(SEVERAL.but(still), Launch(mlflow=False, threads=1, root=root))
    claimed = run.predict(splits.train.pixels[splits.train.rows]) >= 0.5
    right = (claimed == splits.train.targets).all(axis=1).mean()
    assert run.metrics["train/accuracy"] == pytest.approx(right, abs=1e-6)
    order = K.permutation(SEVERAL.seed, 0, len(splits.train))[:16]
    assert shown == MULTI_LABEL.titles(torch.from_numpy(splits.train.targets[order]), splits.classes)


def test_what_is_of_one_class_an_image_is_left_out_and_refused_by_name(trained, capsys):
    kept = {path.name for path in (trained.folder / "artifacts").iterdir()}
    assert not {"confusion_matrix.csv", "confusion_matrix.png", REPORT} & kept
    assert {RECORD, "learning_curves.png", "look.png"} <= kept
    assert "report" not in trained.tags
    with pytest.raises(UserError, match="reports do not support images with several labels"):
        report([str(trained.folder)])


def test_an_export_gives_the_probability_of_each_label(trained, tmp_path):
    source = Source(trained, served(trained))
    FORMATS["onnx"].write(source.onnx, tmp_path, "{}")
    some = runs.images(trained, 5)
    np.testing.assert_allclose(FORMATS["onnx"].opened(tmp_path, 1, source)(some), trained.predict(some), atol=1e-5)
    with pytest.raises(UserError, match="is incomplete in MLflow"):  # the only reason why it is refused
        register(trained, "digits")


def test_it_resumes_to_the_same_bits(trained, root, home):
    with runs.interrupted_after(29):
        train(SEVERAL, Launch(mlflow=False, threads=1, root=root, checkpoint_every="5"), "tiny")
    assert runs.digest(resume(interrupted("tiny"))) == runs.digest(trained)


def complaint(root, changes):
    with pytest.raises(UserError) as caught:
        train(SEVERAL.but(changes), Launch(mlflow=False, threads=1, root=root), "tiny")
    return caught.value.lines


class Own(Loss):
    """A user's loss, which says nothing of several labels."""

    def __call__(self, logits, targets):
        return logits.sum(dim=1)


def test_every_part_that_needs_one_class_is_reported_before_anything_is_recorded(root, home):
    changes = {
        "loss": ClassBalanced(loss=BinaryCrossEntropy()),
        "method": WeightPenalty(method=Consistency(), l2=0.1),
        "augment": (HorizontalFlip(), Mixup(), CutMix()),
        "long_tail": LongTail(),
        "label_noise": LabelNoise(),
        "sampling": Balanced(),
    }
    lines = complaint(root, changes)
    named = ["long_tail", "label_noise", "sampling", "augment.mixup", "augment.cut_mix", "loss", "method.method"]
    assert [line.partition(":")[0] for line in lines] == named
    assert lines[0].endswith("supports only single-label images, and these are multi-label; leave it out")
    assert lines[5].endswith("use BinaryCrossEntropy")
    for loss in (CrossEntropy(), Own()):
        (line,) = complaint(root, {"loss": loss})
        assert line.startswith(f"loss: {type(loss).__name__} supports only single-label images")
    assert not (home / "mlruns").exists()


def test_metrics_are_refused_where_they_are_not_measured(root):
    for part in (CohenKappa(), Brier(), MatthewsCorrCoef(), TopK(k=3), Torchmetric(name="MulticlassAUROC")):
        (line,) = complaint(root, {"metrics": (part,)})
        kind = type(part).__name__
        assert line.startswith(f"metrics.{part.label()}: {kind} supports only single-label images, and these are multi")
    (line,) = complaint(root, {"monitor": "val/balanced_accuracy"})
    reason = "it needs one class for each image"
    assert line.startswith(f"monitor: val/balanced_accuracy is not measured for these data ({reason}); did you mean")
    with pytest.raises(UserError, match=r"monitor: val/map .* \(it needs multi-label data\)"):
        train(EXPERIMENT.but({"data": Digits(), "monitor": "val/map"}), Launch(mlflow=False), "tiny")


def test_views_are_averaged_label_by_label():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).eval()
    images = torch.randn(5, 1, 3, 4)
    expected = (model(images).sigmoid() + model(images.flip(3)).sigmoid()) / 2
    torch.testing.assert_close(averaged(model, "flip", MULTI_LABEL)(images).sigmoid(), expected)


def test_targets_that_are_not_what_the_splits_say_are_refused():
    one = Images(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2), np.array([0, 1]))
    both = Images(one.pixels, one.rows, np.array([[0, 1], [0.5, 1]], np.float32))
    for images, multi_label, expected in ((one, True, "expected float32 [2, 2]"), (both, True, "expected float32"),
                                      (both, False, "targets are multi-label; pass multi_label=True")):  # fmt: skip
        with pytest.raises(DataError) as caught:
            Splits("x", ("a", "b"), images, images, images, "", "", multi_label)
        assert len(caught.value.lines) == 3
        assert expected in caught.value.lines[0]


def test_labels_are_named_beside_the_images():
    assert MULTI_LABEL.titles(torch.tensor([[1.0, 0, 1], [0, 0, 0]]), ("a", "b", "c")) == ["a + c", "-"]


def test_an_ensemble_has_the_mean_probability_of_each_label(trained, root, monkeypatch):
    other = train(SEVERAL.but({"seed": 1, "epochs": 1, "tta": "flip"}), Launch(mlflow=False, threads=1, root=root))
    monkeypatch.setattr(ensemble, "chosen", lambda answers, metric, size: [1, 3])
    made = ensemble.ensemble([trained, other], metric="map")
    test = TABLE.load(root).test
    expected = 0.25 * trained.predict(test) + 0.75 * other.predict(test)
    np.testing.assert_allclose(made.run.predict(test), expected, atol=1e-5)
    np.testing.assert_allclose(torch.from_numpy(read(made.run, "test").logits).sigmoid(), expected, atol=3e-3)
    assert made.run.metrics["test/map"] == pytest.approx(S.average_precision_score(test.targets, expected), abs=2e-3)
    assert made.run.metrics["test/map"] == made.test.value
