"""Runs on all folds: under one parent, with an answer for each image from a run that did not train on it."""

import signal
import time

import numpy as np
import pytest

from core.cli.train import main as train
from core.common.errors import DataError, UserError
from core.compare.comparison import compare
from core.compare.runs import rows
from core.inference.answers import name_of, read, read_file
from core.launch import Launch
from core.loading.folds import Folds
from core.metrics.answers import identity
from core.metrics.by_name import compute
from core.options import parse
from core.runs.seeds import resume_seeds, train_folds
from core.runs.trained import load
from experiments.tiny import EXPERIMENT
from tests.support.runs import points

QUIET = Launch(mlflow=False, threads=1)
SHORT = EXPERIMENT.but({"epochs": 2, "limit": 150})
WORDS = ("experiments.tiny", "--epochs", "2", "--limit", "150", "--mlflow", "false", "--threads", "1")


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        yield home, train_folds(SHORT, Folds(2, 2), QUIET, "tiny")


@pytest.fixture
def at_home(folds, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(folds[0]))
    return folds[1]


def test_each_fold_is_a_run_and_each_repetition_has_its_partition_and_seed(at_home):
    found = [(run.experiment.fold, run.experiment.seed) for run in at_home.runs]
    assert found == [(fold, fold.repeat - 1) for fold in Folds(2, 2)]
    assert at_home.parent.status == "FINISHED"
    assert at_home.parent.record["folds"] == "2x2"
    held = [set(read(run, "val").ids.tolist()) for run in at_home.runs]
    assert not held[0] & held[1]
    assert held[0] not in held[2:]
    assert held[0] | held[1] == held[2] | held[3]


def test_the_out_of_fold_answers_are_of_every_image_once(at_home):
    answers = read_file(at_home.parent.artifact(name_of("oof")))
    pool = SHORT.data.load(None).limited(150)
    images = pool.train.together(pool.val)
    assert answers.split == "oof"
    truth = sorted(zip(map(identity, images.pixels[images.rows]), images.targets.tolist(), strict=True))
    assert sorted(zip(answers.ids.tolist(), answers.targets.tolist(), strict=True)) == truth
    of_images = {}
    for run in at_home.runs:
        own = read(run, "val")
        for name, scores in zip(own.ids, own.probabilities, strict=True):
            of_images.setdefault(name, []).append(scores)
    assert {len(each) for each in of_images.values()} == {2}
    means = np.array([np.mean(of_images[name], axis=0) for name in answers.ids])
    np.testing.assert_allclose(answers.probabilities, means, atol=2e-3)
    assert at_home.parent.metrics["oof/accuracy"] == pytest.approx(compute(answers, "accuracy"), abs=5e-3)


def test_the_mean_has_the_corrected_interval(at_home):
    values = [run.history["val/accuracy"][int(run.tags["best_epoch"])] for run in at_home.runs]
    metrics = at_home.parent.metrics
    assert metrics["val/accuracy"] == pytest.approx(np.mean(values))
    half = 3.182446 * np.std(values, ddof=1) * np.sqrt(1 / 4 + 1)  # t of 3 degrees of freedom
    assert metrics["val/accuracy_ci95"] == pytest.approx(half, rel=1e-6)
    assert metrics["folds_finished"] == 4
    assert (at_home.parent.folder / "artifacts" / "folds.png").exists()


def test_folds_are_repeats_of_one_setting_whose_interval_is_corrected(at_home):
    found, _ = rows([at_home.parent.id])
    (group,) = compare(found, "val/accuracy").groups
    assert len(group.values) == 4
    _, std, half = group.summary
    assert half == pytest.approx(3.182446 * std * np.sqrt(1 / 4 + 1), rel=1e-6)


def test_the_command_trains_folds_and_says_what_they_are_worth(home, capsys):
    assert train(["tiny", *WORDS[1:], "--folds", "2"]) == 0
    said = capsys.readouterr().out
    assert "fold 2 (2 of 2)" in said
    assert "mean and corrected 95 % interval of 2 folds" in said
    assert "out of fold, all images: accuracy " in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--folds", "1"], "--folds: should be the number of folds, at least 2, or folds x repetitions, as 5x4"),
        (["--folds"], "--folds: should be the number of folds"),
        (["--folds", "5", "--seeds", "2"], "each repetition of --folds 5x4 has a seed of its own"),
        (["--folds", "5", "--fold.number", "2"], "--folds: the declaration is of a single fold; add --fold none"),
    ],
)
def test_mistakes_in_the_number_of_folds(words, said):
    with pytest.raises(UserError, match=said):
        parse(words, EXPERIMENT, {})


def test_more_folds_than_images_of_a_class_leave_no_parent_behind(home):
    with pytest.raises(DataError, match=r"folds: 0 has \d+ images for training and validation, fewer than 99 folds"):
        train_folds(SHORT, Folds(99), QUIET)
    assert not (home / "mlruns" / "runs").exists()


def test_a_killed_fold_resumes_and_the_parent_ends_as_undisturbed(forge, home, tmp_path, monkeypatch):
    process = forge.start(*WORDS, "--folds", "2", "--checkpoint_every", "1")
    end = time.monotonic() + 60
    while len(list((home / "mlruns" / "runs").glob("*/checkpoints/*.checkpoint"))) < 2:
        assert time.monotonic() < end, process.text
        time.sleep(0.01)
    process.kill(signal.SIGKILL)
    process.wait()
    status, text = forge.run(WORDS[0], "resume")
    assert status == 0, text
    runs = [load(path.name) for path in (home / "mlruns" / "runs").iterdir()]
    assert [run.status for run in runs] == ["FINISHED"] * 3
    (parent,) = [run for run in runs if "folds" in run.record]
    children = sorted(
        (run for run in runs if run != parent), key=lambda run: run.record["declaration"]["fold"]["number"]
    )
    monkeypatch.setenv("LABBOOK_HOME", str(tmp_path))
    again = train_folds(SHORT, Folds(2), QUIET, "tiny")
    assert [points(run) for run in again.runs] == [points(run) for run in children]
    mine, theirs = (read_file(each.artifact(name_of("oof"))) for each in (parent, again.parent))
    assert np.array_equal(mine.logits, theirs.logits)


def test_folds_that_have_finished_are_not_resumed(at_home):
    with pytest.raises(UserError, match="is FINISHED"):
        resume_seeds(at_home.parent)
