"""Several tasks at a time, from a table to the record: which digit an image shows, and whether it is odd."""

import copy
import csv
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn import metrics as S
from sklearn.datasets import load_digits

from core import losses as L
from core.augment import CutMix, Mixup
from core.cli.compare import main as compare
from core.cli.outcome import report as report_end
from core.cli.report import main as report
from core.common.errors import DataError, UserError
from core.context import Context
from core.export.export import refuse as refuse_export
from core.inference.answers import read
from core.launch import Launch
from core.loading.folds import Fold
from core.loading.images import Dataset, Splits
from core.loading.sampling import ClassBalanced as Balanced
from core.loading.sampling import LabelNoise, LongTail
from core.losses import CrossEntropy, FocalLoss, TaskLosses
from core.losses.check import LossCheck, check_loss
from core.methods import Consistency, WeightPenalty
from core.metrics import AUROC
from core.metrics.by_name import compute
from core.metrics.names import of_tasks
from core.metrics.task import SINGLE_LABEL, SeveralTasks
from core.models import MLP
from core.models.tta import averaged
from core.runs.ensemble import ensemble
from core.runs.rerun import check_environment, compare_results, launch_of, rerun_here
from core.runs.resume import interrupted, resume
from core.runs.train import train
from core.search.objectives import goals_of
from core.search.options import Search
from core.training.assemble import assemble, check
from core.training.loop import fit
from data import Digits, ImageTable
from data.predict.evaluate import main as evaluate
from data.predict.predict import main as predict
from experiments.tiny import EXPERIMENT, SPACE
from tests.support.runs import digest, interrupted_after

COUNT = 600  # digits, of 1,797
TASKS = ("digit", "parity")
BLOCKS = (("digit", 10), ("parity", 2))
CLASSES = (*(f"digit={digit}" for digit in range(10)), "parity=even", "parity=odd")
TABLE = ImageTable(size=8, tasks=TASKS)
WEIGHT = 0.5
SEVERAL = EXPERIMENT.but(
    {
        "data": TABLE,
        "loss": TaskLosses(losses=(CrossEntropy(), CrossEntropy()), weights=f"parity={WEIGHT}"),
        "monitor": "val/accuracy_digit",
        "stopping": {"class": "EarlyStopping", "monitor": "val/loss_parity"},
        "epochs": 6,
        "batch_size": 32,
    }
)
RAW = load_digits()


def parity(place):
    """The label in the table; every fifth image has none."""
    return "" if place % 5 == 0 else ("even", "odd")[RAW.target[place] % 2]


def write(folder, rows, head=("path", *TASKS)):
    with (folder / "digits.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([head, *rows])
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    for place, pixels in enumerate(RAW.images[:COUNT]):
        Image.fromarray(np.rint(pixels * 255 / 16).astype(np.uint8)).save(folder / f"{place:04}.png")
    return write(folder, [(f"{place:04}.png", RAW.target[place], parity(place)) for place in range(COUNT)])


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A home for the runs of this file."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("LABBOOK_HOME", str(home))
        yield home


@pytest.fixture(scope="module")
def trained(root, lab):
    return train(SEVERAL, launch(root), "tiny")


@pytest.fixture
def at_home(trained, lab, monkeypatch):
    """The home with the trained run."""
    monkeypatch.setenv("LABBOOK_HOME", str(lab))
    return trained


def launch(root, **more):
    return Launch(mlflow=False, threads=1, root=root, **more)


def expected(splits, scores):
    """{task: (true classes, probabilities)} of the test images that have a label of it. scores: of all classes."""
    found = {}
    for name, columns in (("digit", slice(0, 10)), ("parity", slice(10, 12))):
        has = splits.test.targets[:, columns].any(axis=1)
        found[name] = splits.test.targets[has, columns].argmax(axis=1), scores[has, columns]
    return found


def test_the_targets_of_a_task_are_its_columns_and_missing_labels_are_counted(root, capsys):
    splits = TABLE.load(root)
    assert (splits.classes, splits.tasks, splits.unlabeled) == (CLASSES, BLOCKS, {"digit": 0, "parity": COUNT // 5})
    assert "images without a label: 120 of parity" in capsys.readouterr().err
    for images in (splits.train, splits.val, splits.test):
        digits, odd = images.targets[:, :10], images.targets[:, 10:]
        assert np.array_equal(digits.argmax(axis=1), RAW.target[images.rows])
        assert np.array_equal(digits.sum(axis=1), np.ones(len(images)))
        assert np.array_equal(odd.any(axis=1), images.rows % 5 != 0)
        assert np.array_equal(
            odd[images.rows % 5 != 0].argmax(axis=1), RAW.target[images.rows[images.rows % 5 != 0]] % 2
        )
    assert splits.summary().startswith("digits: 2 tasks (digit of 10 classes, parity of 2 classes); train ")


def test_each_task_is_learned_and_its_metrics_are_those_of_scikit_learn(trained, root):
    splits = TABLE.load(root)
    scores = trained.predict(splits.test.pixels[splits.test.rows])
    assert np.allclose([scores[:, :10].sum(axis=1), scores[:, 10:].sum(axis=1)], 1, atol=1e-5)
    losses, accuracies, found = [], [], trained.metrics
    for (task, (true, own)), weight in zip(expected(splits, scores).items(), (1, WEIGHT), strict=True):
        accuracy, chance = S.accuracy_score(true, own.argmax(axis=1)), 1 / own.shape[1]
        assert accuracy > chance + 0.3
        assert found[f"test/accuracy_{task}"] == pytest.approx(accuracy)
        expected_f1 = S.f1_score(true, own.argmax(axis=1), average="macro")
        assert found[f"test/f1_{task}"] == pytest.approx(expected_f1, abs=1e-6)
        nll = S.log_loss(true, own, labels=range(own.shape[1]))
        assert found[f"test/nll_{task}"] == pytest.approx(nll, rel=1e-3)
        share = len(true) / len(splits.test)
        assert found[f"test/loss_{task}"] == pytest.approx(nll * share, rel=1e-3)
        losses.append(weight * nll * share)
        accuracies.append(accuracy)
        with (trained.folder / f"artifacts/confusion_matrix_{task}.csv").open() as stream:
            (_, *names), *rows = csv.reader(stream)
        assert names == [name.partition("=")[2] for name in CLASSES if name.startswith(task)]
        assert np.array_equal(np.array([row[1:] for row in rows], int), S.confusion_matrix(true, own.argmax(axis=1)))
    assert found["test/loss"] == pytest.approx(sum(losses), rel=1e-3)
    assert found["test/accuracy"] == pytest.approx(np.mean(accuracies))
    blocks = [(scores[:, part], splits.test.targets[:, part]) for part in (slice(0, 10), slice(10, 12))]
    right = [(own.argmax(axis=1) == true.argmax(axis=1)) | ~true.any(axis=1) for own, true in blocks]
    assert found["test/exact_match"] == pytest.approx(np.mean(right[0] & right[1]))
    assert "test/top5_digit" in found
    assert "test/top5_parity" not in found
    with (trained.folder / "artifacts/per_class.csv").open() as stream:
        each = list(csv.DictReader(stream))
    assert [row["class"] for row in each] == list(CLASSES)
    assert [int(row["images"]) for row in each] == list(splits.test.counts(12))
    history = trained.history["val/accuracy_digit"]
    assert history[int(trained.tags["best_epoch"])] == max(history.values())


class OneTask(Dataset):
    """The digits, whose classes are those of a single task of several, or ordinary ones."""

    as_tasks: bool = True

    def load(self, root=None):
        splits = Digits().load(None).limited(200)
        if not self.as_tasks:
            return splits
        hot = [replace(one, targets=np.eye(10, dtype=np.float32)[one.targets]) for one in (splits.train, splits.val)]
        names = tuple(f"digit={name}" for name in splits.classes)
        return Splits("digits", names, *hot, hot[1], "", "", True, (("digit", 10),))


def test_a_task_alone_has_the_losses_of_ordinary_training():
    curves = []
    for as_tasks, loss in ((True, TaskLosses(losses=(CrossEntropy(label_smoothing=0.1),))), (False, EXPERIMENT.loss)):
        declared = EXPERIMENT.but({"data": OneTask(as_tasks=as_tasks), "loss": loss, "epochs": 2})
        check(declared)
        parts = assemble(declared, declared.data.load(None), Launch(threads=1, device="cpu"))
        list(fit(parts.setup, parts.state, parts.train, parts.val))
        curves.append(parts.state.history)
    for one, other in zip(*curves, strict=True):
        for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
            assert one[name] == pytest.approx(other[name], rel=1e-6), name
        assert one["val/balanced_accuracy_digit"] == other["val/balanced_accuracy"]


def context(tasks=BLOCKS, counts=(50, 20, 10, 6, 4, 3, 3, 2, 1, 1, 30, 70)):
    size = sum(n for _, n in tasks)
    return Context(CLASSES[:size], counts[:size], (8, 8, 1), 100, 2, 3, 10, torch.device("cpu"), tasks=tasks)


def test_each_loss_gets_its_own_columns_and_what_has_no_label_gets_no_gradient():
    logits = torch.randn(6, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    digits, odd = torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([0, 1, 0, 1, 0, 1])
    targets = torch.cat([F.one_hot(digits, 10), F.one_hot(odd, 2)], dim=1).double()
    targets[::2, 10:] = 0
    loss = TaskLosses(losses=(FocalLoss(), CrossEntropy(weights="balanced")), weights=(2, 0.5)).build(context())
    weight = torch.tensor([100 / 60, 100 / 140], dtype=torch.float32).double()[odd]
    second = F.cross_entropy(logits[:, 10:], odd, reduction="none") * weight * torch.tensor([0, 1, 0, 1, 0, 1])
    first = FocalLoss()(logits[:, :10], digits)
    torch.testing.assert_close(loss(logits, targets), 2 * first + 0.5 * second, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss.terms["loss_parity"](logits, targets), second, rtol=1e-6, atol=1e-6)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: copy.deepcopy(loss).double()(z, targets), (logits,))
    loss(logits, targets).sum().backward()
    assert not logits.grad[::2, 10:].any()
    assert logits.grad[1::2, 10:].all()
    extreme = torch.full((6, 12), 1e4, dtype=torch.float16, requires_grad=True)
    loss(extreme, targets.half()).sum().backward()
    assert torch.isfinite(extreme.grad).all()
    untrained = TaskLosses(weights="digit=0,parity=1").build(context())
    torch.testing.assert_close(untrained(logits, targets), untrained.terms["loss_parity"](logits, targets))


def test_it_resumes_to_the_same_bits_and_a_rerun_agrees(at_home, root):
    with interrupted_after(29):
        train(SEVERAL, launch(root, checkpoint_every="5"), "tiny")
    resumed = resume(interrupted("tiny"))
    assert digest(resumed) == digest(at_home)
    here = launch_of(resumed, None)
    verdict = compare_results(resumed, rerun_here(resumed, here), check_environment(resumed, here))
    assert verdict.same, verdict


@pytest.fixture(scope="module")
def other(root, lab, trained):
    return train(SEVERAL.but({"model": MLP(hidden=(16,)), "epochs": 1, "tta": "flip"}), launch(root), "tiny")


def test_runs_are_compared_by_the_metric_of_a_task(at_home, other, capsys):
    for metric in ("val/accuracy_digit", "test/nll_parity"):
        assert compare([at_home.id, other.id, "--metric", metric]) == 0
        said = capsys.readouterr().out
        assert metric in said
        assert "not known" not in said
    assert compare([at_home.id, other.id]) == 0


def test_the_last_line_of_a_training_has_the_accuracy_of_each_task(at_home, capsys):
    report_end(at_home)
    said, metrics = capsys.readouterr().out, at_home.metrics
    for task in TASKS:
        assert f"{task} {metrics[f'test/accuracy_{task}']:.2%}" in said


def test_a_search_and_early_stopping_follow_the_metric_of_a_task():
    goals = goals_of(Search(goal=("val/nll_parity", "val/accuracy_digit")), SEVERAL, {})
    assert [goals.larger_is_better(name) for name in goals.names] == [False, True]
    assert SEVERAL.directions["val/loss_parity"] == -1
    for field in ("monitor", "stopping.monitor"):
        with pytest.raises(UserError, match=r"val/accuracy_colour is not measured; choose one of .*val/accuracy_digit"):
            SEVERAL.but({field: "val/accuracy_colour"})
    with pytest.raises(UserError, match="unknown goal"):
        goals_of(Search(goal=("val/accuracy_digit",)), EXPERIMENT, SPACE)


def test_predict_writes_a_class_and_a_probability_of_each_task(at_home, root, tmp_path):
    path = tmp_path / "said.csv"
    files = [str(root / f"{place:04}.png") for place in range(20)]
    assert predict([at_home.id, *files, "--to", str(path)]) == 0
    with path.open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "digit", "probability of digit", "parity", "probability of parity", "error"]
    scores = at_home.predict(files)
    assert [row["digit"] for row in rows] == [str(place) for place in scores[:, :10].argmax(axis=1)]
    assert [row["parity"] for row in rows] == [("even", "odd")[place] for place in scores[:, 10:].argmax(axis=1)]
    assert [float(row["probability of digit"]) for row in rows] == pytest.approx(scores[:, :10].max(axis=1), abs=1e-5)
    certain = tmp_path / "certain.csv"
    assert predict([at_home.id, *files, "--to", str(certain), "--threshold", "0.99"]) == 0
    with certain.open() as stream:
        given = [row["digit"] for row in csv.DictReader(stream)]
    assert given == [row["digit"] if float(row["probability of digit"]) >= 0.99 else "" for row in rows]
    for option in (["--top", "2"], ["--sort-into", str(tmp_path / "sorted")], ["--sheet", str(tmp_path / "s.png")]):
        with pytest.raises(UserError, match="has several tasks, which --"):
            predict([at_home.id, files[0], "--to", str(tmp_path / "x.csv"), *option])


def test_evaluate_measures_each_task_also_on_another_table_and_their_mean(at_home, other, root, tmp_path, capsys):
    assert evaluate([at_home.id, other.id]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"accuracy_digit +{at_home.metrics['test/accuracy_digit']:.4f} ", said)
    assert f"mean of 2 runs: {at_home.record['data']['test']} images" in said
    mine = tmp_path / "mine"
    mine.mkdir()
    for place in range(40):
        (mine / f"{place:04}.png").write_bytes((root / f"{place:04}.png").read_bytes())
    write(mine, [(f"{place:04}.png", RAW.target[place], parity(place)) for place in range(40)])
    assert (
        evaluate(
            [at_home.id, "--root", str(mine / "digits.csv"), "--metric", "auroc_parity", "--metric", "accuracy_digit"]
        )
        == 0
    )
    answers = read(at_home, "test")
    assert answers.tasks == BLOCKS
    assert compute(answers, "f1_digit") == pytest.approx(at_home.metrics["test/f1_digit"], abs=1e-6)
    assert compute(answers, "exact_match") == pytest.approx(at_home.metrics["test/exact_match"], abs=1e-6)
    assert compute(answers, "accuracy") == pytest.approx(at_home.metrics["test/accuracy"], abs=1e-6)
    with pytest.raises(UserError, match="unknown metric; did you mean accuracy_digit"):
        compute(answers, "accuracy_digits")
    single = ["--data.tasks", "none", "--data.label_column", "digit"]
    with pytest.raises(UserError, match=r"has a single task, and tiny-.* has several tasks; a table with a column"):
        evaluate([at_home.id, "--root", str(mine / "digits.csv"), *single])


def test_a_fold_is_divided_by_all_tasks(root):
    splits = TABLE.load(root)
    for number in (1, 2):
        val = Fold(folds=4, number=number)(splits).val
        share = np.array(val.counts(12)) / (np.array(splits.train.counts(12)) + splits.val.counts(12))
        assert np.allclose(share, 1 / 4, atol=0.06)


def test_views_are_averaged_task_by_task():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)).eval()
    images, task = torch.randn(5, 1, 3, 4), SeveralTasks((("a", 3), ("b", 2)))
    for columns in (slice(0, 3), slice(3, 5)):
        mean = (model(images)[:, columns].softmax(1) + model(images.flip(3))[:, columns].softmax(1)) / 2
        torch.testing.assert_close(averaged(model, "flip", task)(images)[:, columns].softmax(1), mean)


def test_right_is_the_mean_of_the_accuracies_of_the_tasks():
    task = SeveralTasks((("a", 2), ("b", 2)))
    targets = torch.tensor([[1.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 0]])
    logits = torch.tensor([[2.0, 1, 1, 2], [2, 1, 0, 0], [0, 1, 0, 1], [1, 0, 0, 0]])
    assert task.right(logits, targets).item() == pytest.approx(4 * (3 / 4 + 1 / 2) / 2)
    found = task.summary(
        *[part.double() if place else part for place, part in enumerate(_counted(task, logits, targets))]
    )
    assert (found["accuracy"], found["exact_match"]) == (0.625, 0.5)
    assert {*found} == {"loss", "accuracy", *of_tasks(("a", "b"))} - {"top5_a", "top5_b", "loss_a", "loss_b"}
    nobody = task.summary(*_counted(task, logits[1:2], targets[1:2]))
    assert np.isnan(nobody["accuracy_b"])
    assert nobody["accuracy"] == nobody["accuracy_a"] == 1


def _counted(task, logits, targets):
    table, sums = task.count(logits, targets)
    return table, torch.cat([torch.zeros(1), sums])


def complaint(root, changes):
    with pytest.raises(UserError) as caught:
        train(SEVERAL.but(changes), launch(root), "tiny")
    return caught.value.lines


def test_what_supports_a_single_task_is_refused_before_anything_is_recorded(root, home):
    changes = {
        "loss": FocalLoss(),
        "method": WeightPenalty(method=Consistency(), l2=0.1),
        "augment": (Mixup(), CutMix()),
        "long_tail": LongTail(),
        "label_noise": LabelNoise(),
        "sampling": Balanced(),
        "metrics": (AUROC(),),
    }
    lines = complaint(root, changes)
    named = "long_tail label_noise sampling augment.mixup augment.cut_mix loss method.method metrics.auroc".split()
    assert [line.partition(":")[0] for line in lines] == named
    assert lines[5] == "loss: FocalLoss supports a single task, and these images have several; use TaskLosses"
    assert lines[6].endswith("use Supervised")
    (line,) = complaint(root, {"loss": L.Sum(losses=(CrossEntropy(),))})
    assert line.startswith("loss: Sum supports a single task")
    assert not (home / "mlruns").exists()


def test_losses_that_do_not_fit_the_tasks_are_refused(root):
    for loss, expected in (
        (TaskLosses(losses=(CrossEntropy(),)), "got 1 loss for 2 tasks (digit, parity); give one for each"),
        (TaskLosses(weights=(1, 2, 3)), "got 3 weights for 2 tasks"),
        (TaskLosses(weights="digits=2"), "digits is no task of the data; did you mean digit"),
        (TaskLosses(losses=(L.ArcFace(), CrossEntropy())), "ArcFace adds a last layer"),
        (TaskLosses(losses=(L.TorchLoss(name="CrossEntropyLoss"), CrossEntropy())), "is the mean over a batch"),
    ):
        (line,) = complaint(root, {"loss": loss})
        assert expected in line
    (line,) = complaint(root, {"loss": TaskLosses(losses=(L.Sum(losses=(TaskLosses(),)), CrossEntropy()))})
    assert line.startswith("loss.losses.sum.losses.task_losses: TaskLosses supports only images of several tasks")
    with pytest.raises(UserError, match="weights: should be none, one nonnegative number per task"):
        SEVERAL.but({"loss.weights": "0,0"})
    with pytest.raises(UserError, match=r"supports only images of several tasks, .* single-label; use CrossEntropy"):
        train(EXPERIMENT.but({"loss": TaskLosses(), "limit": 100}), Launch(mlflow=False), "tiny")
    with pytest.raises(UserError, match="TaskLosses needs data of several tasks"):
        list(check_loss(LossCheck(loss=TaskLosses())))


def test_wrong_tables_are_refused(root, tmp_path):
    for fields, expected in {
        ("digit",): "digit is a single task; set label_column to it instead",
        ("digit", "digit"): "a column is named twice",
        ("digit", "is odd"): "'is odd' cannot be the name of a task",
        ("digit", "split"): "split has another meaning",
    }.items():
        with pytest.raises(ValueError, match=expected):
            ImageTable(tasks=fields).check()
    with pytest.raises(ValueError, match="tasks and multi_label"):
        ImageTable(tasks=TASKS, multi_label=True).check()
    with pytest.raises(DataError, match=r"no column shade; the columns are .*, parity \(set it with --data.tasks"):
        ImageTable(size=8, tasks=("digit", "shade")).load(root)
    for place in range(4):
        (tmp_path / f"{place:04}.png").write_bytes((root / f"{place:04}.png").read_bytes())
    rows = [("0000.png", 0, "even"), ("0001.png", 1, "even"), ("0002.png", "", " "), ("0003.png", "", "even")]
    with pytest.raises(DataError) as caught:
        TABLE.load(write(tmp_path, rows))
    assert caught.value.lines[1:] == ["row 3: the labels of all tasks are missing; remove the row"]
    with pytest.raises(DataError, match="parity has 1 classes; a task has 2 to 1,000"):
        TABLE.load(write(tmp_path, [rows[0], rows[1], rows[3]]))


def test_what_cannot_be_made_of_such_a_run_is_refused(at_home, other, root):
    with pytest.raises(UserError, match="has several tasks, which exports do not support"):
        refuse_export(at_home)
    with pytest.raises(UserError, match="has several tasks, which the report does not support"):
        report([at_home.id])
    with pytest.raises(UserError, match="has several tasks, which ensembles and soups do not support"):
        ensemble([at_home, other])
    assert not (at_home.folder / "artifacts/report.html").exists()
    assert SeveralTasks(BLOCKS).inside("loss.losses.cross_entropy") is SINGLE_LABEL
