"""Trials that are judged by folds: the mean is the score, and a killed trial keeps the folds that have finished."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from core.common.errors import UserError
from core.launch import Launch
from core.loading.folds import Fold
from core.record.run import WEIGHTS
from core.runs.recorder import RunInfo, RunSpec, new_run, open_journal, write_record
from core.search import Float
from core.search.objectives import Goals, goals_of
from core.search.options import Search
from core.search.search import search
from core.search.trial import Task, run_trial
from experiments.tiny import EXPERIMENT

QUIET = Launch(mlflow=False, threads=1)
TINY = EXPERIMENT.but({"limit": 60, "epochs": 2, "monitor": "val/accuracy", "model.widths": (4,)})
SPACE = {"optimizer.lr": Float(0.01, 1.0, log=True)}


def test_trials_are_judged_by_the_mean_of_the_best_epochs_of_their_folds(home):
    found = search(TINY, SPACE, Search(trials=2, folds=2), QUIET, "tiny")
    for trial in found.best:
        runs = [run for run in found.parent.children() if run.record["trial"] == trial.number]
        assert sorted(run.experiment.fold.number for run in runs) == [1, 2]
        scores = [max(run.history["val/accuracy"].values()) for run in runs]
        assert trial.value == pytest.approx(np.mean(scores))
        assert list(trial.intermediate_values) == [1, 2]
        assert not any((run.folder / "artifacts" / WEIGHTS).exists() for run in runs)
        assert all("test/accuracy" not in run.metrics for run in runs)
    with pytest.raises(UserError, match="mean of 2 folds"):
        search(TINY, SPACE, Search(trials=2, folds=3), QUIET, "tiny")


def test_a_trial_that_died_goes_on_with_the_fold_it_was_in_and_may_be_pruned_between_folds(home):
    info = RunInfo("tiny", parent=_study().id, trial=7)
    task = Task(7, TINY.record(), QUIET.record(), info, Goals(("val/accuracy",), "best", folds=3))
    begun, again, asked = [], [], []

    def dies_in_the_second(number, run):
        begun.append(run)
        if len(begun) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(task, SimpleNamespace(run=dies_in_the_second, continues=lambda *_: True, ended=None))
    first, second = begun
    assert (first.status, second.status) == ("FINISHED", "KILLED")

    def continues(number, folds, value):
        asked.append((folds, value))
        return folds < 2

    ended = []
    parent = SimpleNamespace(run=lambda number, run: again.append(run), continues=continues, ended=ended.append)
    run_trial(replace(task, run=second.id), parent)
    assert [outcome.pruned for outcome in ended] == [True]
    assert [run.id for run in again] == [second.id]
    scores = [max(run.history["val/accuracy"].values()) for run in (first, second)]
    assert asked == [(1, scores[0]), (2, pytest.approx(np.mean(scores)))]


def _study():
    """The run of a study, as its search opens it."""
    study, journal = new_run("tiny")
    spec = RunSpec(TINY, QUIET, RunInfo("tiny"))
    write_record(journal, spec, open_journal(journal, spec, "study", {}), study={"name": "tiny", "token": "x"})
    return study


@pytest.mark.parametrize(
    ("options", "changes", "said"),
    [
        ({"folds": 3, "confirm": 2}, {}, "--confirm: not together with --folds"),
        ({"folds": 3}, {"fold": Fold()}, "--folds: the declaration is of a single fold"),
    ],
)
def test_what_does_not_go_together_is_refused(options, changes, said):
    with pytest.raises(UserError, match=said):
        goals_of(Search(**options), TINY.but(changes), SPACE)
