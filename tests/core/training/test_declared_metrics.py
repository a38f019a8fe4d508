"""Metrics in a declaration: measured after each epoch and at the end, monitored, resumed, and refused with a reason."""

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from core.common.errors import UserError
from core.common.ranks import Ranks
from core.compare.comparison import compare
from core.compare.runs import rows
from core.inference.answers import read
from core.launch import Launch
from core.metrics import AUROC, Brier, CohenKappa, Metric, TopK, Torchmetric
from core.metrics.answers import identity
from core.metrics.by_name import compute
from core.models import SmallCNN
from core.models.freeze import Freeze
from core.record.run import WEIGHTS
from core.runs.resume import interrupted, resume, take_over
from core.runs.train import train
from core.schedules import Plateau
from core.schedules.stopping import EarlyStopping
from core.search import Float
from core.search.objectives import goals_of
from core.search.options import Search
from core.search.search import search
from core.training.assemble import prepare
from core.training.collect import Collector
from data import Digits
from experiments.tiny import EXPERIMENT
from tests.support.loop import BASE, built, run

QUIET = Launch(mlflow=False, threads=1)


class Margin(Metric):
    """Mean difference of the two largest logits (a test, 2026)."""

    def value(self, answers):
        ordered = np.sort(answers.logits, axis=1)
        return float((ordered[:, -1] - ordered[:, -2]).mean())


class Falling(Metric):
    """Falls with each call, whatever is answered (a test, 2026)."""

    larger_is_better = False

    def value(self, answers):
        Falling.calls += 1
        return 1 / Falling.calls


class Rising(Falling):
    """The same values, of which larger ones are better (a test, 2026)."""

    larger_is_better = True


class Broken(Metric):
    """Fails (a test, 2026)."""

    def value(self, answers):
        return len(answers) / 0


class Wordy(Metric):
    """Returns no number (a test, 2026)."""

    def value(self, answers):
        return "good"


class Sometimes(Metric):
    """Is not defined from the third call on (a test, 2026)."""

    def value(self, answers):
        Falling.calls += 1
        return 0.5 if Falling.calls < 3 else math.nan


class Ids(Metric):
    """Keeps the ids that it is given (a test, 2026)."""

    seen: ClassVar[list[list[str]]] = []

    def value(self, answers):
        Ids.seen.append(answers.ids.tolist())
        return 0.0


class Lacking(Digits):
    """Digits without a three in val, and without a four in test (a test, 2026)."""

    def load(self, root):
        whole = super().load(root)
        val, test = whole.val.take(whole.val.targets != 3), whole.test.take(whole.test.targets != 4)
        return replace(whole, val=val, test=test)


@pytest.fixture(autouse=True)
def counted():
    Falling.calls = 0


SEVERAL = (AUROC(), Brier(), TopK(k=3), Torchmetric(name="MulticlassAUROC"), Margin())
NAMES = ("auroc", "brier", "top3", "multiclass_auroc", "margin")
MEASURED = EXPERIMENT.but({"epochs": 3, "limit": 300, "metrics": SEVERAL, "monitor": "val/brier"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        yield home, train(MEASURED, QUIET, "tiny")


@pytest.fixture
def at_home(trained, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(trained[0]))
    return trained[1]


def test_they_are_recorded_for_each_epoch_and_for_test(at_home):
    val, test = read(at_home, "val"), read(at_home, "test")
    for name, part in zip(NAMES, SEVERAL, strict=True):
        history = at_home.history[f"val/{name}"]
        assert [*history] == [1, 2, 3]
        best = int(at_home.tags["best_epoch"])
        assert history[best] == pytest.approx(part.value(val), abs=2e-3)  # answers on record are of half precision
        assert at_home.metrics[f"test/{name}"] == pytest.approx(part.value(test), abs=2e-3)
    values = at_home.history["val/brier"]
    assert values[int(at_home.tags["best_epoch"])] == min(values.values())
    pixels = MEASURED.data.load(None).limited(300).test
    scores = at_home.predict(pixels.pixels[pixels.rows])
    expected = roc_auc_score(pixels.targets, scores / scores.sum(axis=1, keepdims=True), multi_class="ovr")
    assert at_home.metrics["test/auroc"] == pytest.approx(expected, abs=1e-6)
    assert compute(test, "Margin") == Margin().value(test)


def test_an_epoch_prints_them(home, capsys):
    train(MEASURED.but({"epochs": 1}), QUIET)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/1")]
    for name in NAMES:
        assert f" {name} 0." in line or f" {name} 1." in line or name == "margin"


def test_compare_takes_their_directions_from_the_record(at_home):
    found, _ = rows([at_home.id])
    for metric, better in (("test/auroc", 1), ("test/brier", -1), ("test/margin", 1), ("val/top3", 1)):
        assert compare(found, metric).direction == better
    assert compare([replace(row, directions={}) for row in found], "test/margin").direction is None


def test_without_them_nothing_is_collected():
    assert prepare(BASE, Launch(), Ranks()).setup.collector is None
    assert run(built())[-1].validation.answers is None


@pytest.mark.parametrize(("part", "epochs", "best"), [(Falling(), 4, 4), (Rising(), 3, 1)], ids=["falls", "rises"])
def test_a_declared_metric_stops_training_and_selects_weights_by_its_own_direction(part, epochs, best, home):
    name = f"val/{part.label()}"
    changes = {"metrics": (part,), "monitor": name, "stopping": EarlyStopping(patience=2, monitor=name), "epochs": 4}
    found = train(EXPERIMENT.but({"limit": 200, **changes}), QUIET)
    assert [*found.history[name]] == [*range(1, epochs + 1)]
    assert int(found.tags["best_epoch"]) == best


def test_plateau_follows_the_direction_of_a_declared_metric():
    rates = {}
    for part in (Falling(), Rising()):
        Falling.calls = 0
        schedule = Plateau(monitor=f"val/{part.label()}", patience=0, factor=0.5)
        events = run(built({"metrics": (part,), "schedule": schedule, "epochs": 3}))
        rates[part.label()] = [event.metrics["lr"] for event in events if event.validation]
    assert rates == {"falling": [0.1, 0.1, 0.1], "rising": [0.1, 0.1, 0.05]}


def test_stopped_and_resumed_the_history_is_the_same(at_home, home, monkeypatch):
    from core.runs import trainer as module

    whole, record = at_home.history, module._record
    monkeypatch.setenv("LABBOOK_HOME", str(home))

    def stop(journal, parts, event):
        if event.step == 6:
            raise KeyboardInterrupt
        record(journal, parts, event)

    monkeypatch.setattr(module, "_record", stop)
    with pytest.raises(KeyboardInterrupt):
        train(MEASURED, QUIET.but({"checkpoint_every": "2"}), "tiny")
    monkeypatch.setattr(module, "_record", record)
    again = resume(interrupted("tiny"))
    for split in ("val", "test"):
        for name in NAMES:
            assert again.history[f"{split}/{name}"] == whole[f"{split}/{name}"]
    assert (again.folder / "artifacts" / WEIGHTS).read_bytes() == (at_home.folder / "artifacts" / WEIGHTS).read_bytes()


def test_a_run_continued_must_have_measured_what_is_monitored(home):
    earlier = train(BASE.but({"epochs": 1}), QUIET)
    more = prepare(BASE.but({"metrics": "AUROC", "monitor": "val/auroc"}), QUIET, Ranks())
    with pytest.raises(UserError, match=f"--continue {earlier.id}: its epochs have no val/auroc"):
        take_over(earlier, more)


def test_what_a_class_is_missing_for_is_said_and_left_out(home, capsys):
    lacking = EXPERIMENT.but({"data": Lacking(), "epochs": 1, "metrics": (AUROC(), CohenKappa())})
    found = train(lacking, QUIET)
    said = capsys.readouterr().out
    assert "val/auroc is not recorded: it is not defined: val has no image of 3" in said
    assert "test/auroc is not recorded: it is not defined: test has no image of 4" in said
    assert " auroc undefined cohen_kappa 0." in said
    assert not {"val/auroc", "test/auroc"} & {*found.history}
    assert found.metrics["test/cohen_kappa"] > 0
    for field in ("monitor", "stopping.monitor"):
        with pytest.raises(UserError) as caught:
            prepare(lacking.but({field: "val/auroc"}), QUIET, Ranks())
        (line,) = caught.value.lines
        assert line == f"{field}: val/auroc cannot be chosen: it is not defined: val has no image of 3"
    with pytest.raises(UserError, match="--goal val/auroc: val/auroc cannot be chosen: it is not defined"):
        search(lacking, {"optimizer.lr": Float(0.01, 1.0)}, Search(goal=("val/auroc",)), QUIET, "tiny")


def test_a_monitored_metric_without_a_value_in_one_epoch_ends_the_run_with_a_reason(home):
    with pytest.raises(UserError, match="val/sometimes: it is not defined in epoch 2, and a metric that is monitored"):
        train(EXPERIMENT.but({"limit": 200, "metrics": (Sometimes(),), "monitor": "val/sometimes"}), QUIET)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": "AUROC,AUROC"}, "metrics: two of them are named auroc"),
        ({"metrics": (TopK(k=5),)}, "metrics: top5 is measured in every run; leave it out"),
        ({"metrics": "AUROC", "monitor": "val/brier"},
         "monitor: val/brier is not measured; choose one of val/accuracy.* val/map, val/auroc, or add it to metrics"),
        ({"stopping": EarlyStopping(monitor="val/auroc")}, "stopping.monitor: val/auroc is not measured; choose one"),
        ({"schedule": Plateau(monitor="val/auroc")}, "schedule.monitor: val/auroc is not measured; choose one of"),
    ],
    ids=["twice", "measured", "monitor", "stopping", "schedule"],
)  # fmt: skip
def test_what_fits_no_declaration_is_refused_when_it_is_declared(changes, message):
    with pytest.raises(UserError, match=f"^{message}"):
        BASE.but(changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": (Torchmetric(name="MulticlassAUROCC"),)},
         "metrics.multiclass_aurocc: MulticlassAUROCC is no metric of torchmetrics; did you mean MulticlassAUROC"),
        ({"metrics": (Torchmetric(name="MultilabelAUROC"),)},
         "metrics.multilabel_auroc: Torchmetric supports only multi-label images, and these are single-label"),
        ({"metrics": (Torchmetric(name="MulticlassROC"),)}, "metrics.multiclass_roc: it is not a single number"),
        ({"metrics": (Torchmetric(name="MulticlassAUROC", arguments={"averag": "macro"}),)},
         "metrics.multiclass_auroc: .*averag"),
        ({"metrics": (Torchmetric(name="MulticlassEER"),), "monitor": "val/multiclass_eer"},
         "monitor: val/multiclass_eer: it is not known whether larger or smaller values are better"),
        ({"metrics": (Broken(),)}, r"metrics.broken: .*test_declared_metrics.py, line \d+"),
        ({"metrics": (Wordy(),)}, "metrics.wordy: ValueError: could not convert string to float: 'good'"),
    ],
    ids=["name", "labels", "curve", "argument", "direction", "bug", "word"],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused_before_training(changes, message, home):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        train(BASE.but(changes), QUIET)
    assert len(caught.value.lines) == 1
    assert not (home / "mlruns").exists()


def test_images_are_known_by_their_content_also_where_features_are_cached(home, capsys):
    probe = BASE.but({"model": SmallCNN(widths=(4, 8)), "augment": (), "freeze": Freeze(), "epochs": 1})
    parts = prepare(probe.but({"metrics": (Ids(),)}), QUIET, Ranks())
    val = parts.splits.val
    Ids.seen.clear()
    train(probe.but({"metrics": (Ids(),), "epochs": 2}), QUIET)
    assert "computed the features" in capsys.readouterr().out
    ids = [identity(image) for image in val.pixels[val.rows]]
    assert Ids.seen[1:] == [ids] * 4  # after the rehearsal: two epochs, val and test, which are the same images


def test_images_are_hashed_once(monkeypatch):
    from core.training import collect

    hashed = []
    monkeypatch.setattr(collect, "identity", lambda image: hashed.append(1) or identity(image))
    parts = built({"metrics": (AUROC(),)})
    assert isinstance(parts.setup.collector, Collector)
    run(parts)
    assert len(hashed) == len(parts.splits.val)


@pytest.mark.usefixtures("warm")
def test_a_search_maximizes_a_declared_metric(home):
    declared = EXPERIMENT.but({"limit": 320, "epochs": 2, "metrics": "AUROC"})
    options = Search(trials=2, goal=("val/auroc",))
    found = search(declared, {"optimizer.lr": Float(0.001, 1.0, log=True)}, options, QUIET, "tiny")
    assert found.study.direction.name == "MAXIMIZE"
    values = [max(run.history["val/auroc"].values()) for run in found.parent.children()]
    assert len(values) == 2
    assert found.best[0].values == [max(values)]


def test_the_goals_of_a_search_know_declared_metrics_and_their_directions():
    declared = EXPERIMENT.but({"metrics": (Brier(), Margin()), "monitor": "val/brier"})
    goals = goals_of(Search(), declared, {})
    assert goals.names == ("val/brier",)
    assert not goals.larger_is_better("val/brier")
    assert goals_of(Search(goal=("val/margin",)), declared, {}).larger_is_better("val/margin")
    message = r"--goal val/auroc: unknown goal; choose one of .* val/brier, val/margin, parameters"
    with pytest.raises(UserError, match=message):
        goals_of(Search(goal=("val/auroc",)), declared, {})
