"""Trials that a worker trains at once: each is recorded, pruned, resumed, and fails as if it were alone."""

import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from core.common.errors import UserError
from core.launch import Launch
from core.models import MLP, SmallCNN
from core.optimizers import SGD
from core.record.run import PRUNED, WEIGHTS
from core.runs.recorder import RunInfo
from core.search import Float
from core.search.objectives import Goals
from core.search.options import Search
from core.search.search import search
from core.search.study import StudyRunner
from core.search.trial import Task, run_trials, runs_by_trial
from core.training.checkpoint import CHECKPOINTS
from experiments.tiny import EXPERIMENT
from tests.support.studies import children, parent_of, trials_of, wait_for

QUIET = Launch(mlflow=False, threads=1)
SMALL = EXPERIMENT.but({"model": MLP(hidden=(8,)), "limit": 300, "epochs": 3, "monitor": "val/accuracy"})
GOALS = Goals(("val/accuracy",), "best")
RATES = {"optimizer.lr": Float(0.01, 1.0, log=True)}
WORDS = ("experiments.tiny", "search", "--goal", "val/accuracy", "--limit",
         "320", "--threads", "1", "--sampler", "random", "--at_once", "4", "--workers", "1",
         "--checkpoint_every", "5", "--mlflow", "false")  # fmt: skip


class Parent:
    """The process of the study, for trials in this one. prune: trials that are pruned after their first epoch."""

    def __init__(self, prune=(), keep=(), left=(0, 1, 2, 3)):
        self.prune, self.keep, self.left, self.runs, self.outcomes, self.asked = prune, keep, set(left), {}, {}, []

    def run(self, number, run):
        self.runs[number] = run

    def continues(self, number, done, value):
        self.asked.append((done, number))
        return number not in self.prune

    def keeps_weights(self, number, scores):
        self.asked.append(("score", number, len(self.outcomes)))
        return number in self.keep

    def ended(self, outcome):
        self.left.remove(outcome.number)
        self.outcomes[outcome.number] = outcome


def tasks(*changes):
    info = RunInfo("tiny")
    declared = (SMALL.but(each) for each in changes)
    return [Task(n, one.record(), QUIET.record(), replace(info, trial=n), GOALS) for n, one in enumerate(declared)]


def test_every_trial_of_a_study_is_on_record_as_if_trained_alone(forge, home):
    status, text = forge.run(*WORDS, "--trials", "4", "--epochs", "1", "--pruner", "none")
    assert status == 0, text
    assert "4 trials at once each" in text
    assert "--at_once: trials that differ in loss, model.widths are trained one after the other" in text
    runs, trials = runs_by_trial(parent_of(home)), trials_of(home)
    assert len({trial.params["model.widths"] for trial in trials}) == 2
    assert sum(run.record["launch"]["together"] for run in runs.values()) >= 2
    alone = Parent()
    for trial in trials:
        run = runs[trial.number]
        run_trials([Task(trial.number, run.experiment.record(), QUIET.record(), RunInfo("tiny"), GOALS)], alone)
        theirs = alone.runs[trial.number]
        assert theirs.history["val/loss"] == pytest.approx(run.history["val/loss"], rel=1e-3)
        assert not theirs.record["launch"]["together"]
        assert trial.value == max(run.history["val/accuracy"].values())


def test_trials_are_pruned_and_keep_weights_one_by_one(home):
    parent = Parent(prune=(1,), keep=(2,))
    run_trials(tasks({}, {"optimizer.lr": 0.02}, {"loss.label_smoothing": 0.1}), parent)
    assert [parent.outcomes[number].pruned for number in range(3)] == [False, True, False]
    assert parent.asked[:4] == [(1, 0), (1, 1), (1, 2), (2, 0)]
    assert parent.asked[-4:] == [(3, 0), ("score", 0, 1), (3, 2), ("score", 2, 2)]  # those before have ended
    for number, run in parent.runs.items():
        assert run.status == "FINISHED"
        assert (PRUNED in run.tags) is (number == 1)
        assert len(run.history["val/loss"]) == (1 if number == 1 else 3)
        assert (run.folder / "artifacts" / WEIGHTS).exists() is (number == 2)
        assert (run.folder / CHECKPOINTS).exists() is (number == 2)
    assert parent.outcomes[0].scores == [max(parent.runs[0].history["val/accuracy"].values())]


def test_a_trial_that_diverges_fails_alone(home):
    parent = Parent()
    run_trials(tasks({}, {"optimizer": SGD(lr=1e30)}, {"optimizer.lr": 0.02}), parent)
    assert [bool(parent.outcomes[number].error) for number in range(3)] == [False, True, False]
    assert parent.outcomes[1].error.startswith("NonFinite: ")
    assert [parent.runs[number].status for number in range(3)] == ["FINISHED", "FAILED", "FINISHED"]


def test_trials_that_cannot_be_built_or_stacked_do_not_touch_the_others(home):
    parent = Parent()
    made = tasks({}, {"optimizer.groups": (("missing*", 2.0),)}, {"model": SmallCNN(widths=(4,))}, {"seed": 3})
    run_trials(made, parent)
    assert sorted(parent.outcomes) == [0, 1, 2, 3]
    assert "no parameter matches missing*" in parent.outcomes[1].error
    assert all(parent.outcomes[number].scores for number in (0, 2, 3))


def test_trials_are_resumed_at_once_from_where_each_was_stopped(home):
    class Stopping(Parent):
        def continues(self, number, done, value):
            if (done, number) == (2, 0):
                os.kill(os.getpid(), signal.SIGTERM)
            return True

    first, made = Stopping(), tasks({}, {"optimizer.lr": 0.02}, {"loss.label_smoothing": 0.1})
    with pytest.raises(KeyboardInterrupt):
        run_trials(made, first)
    assert {run.status for run in first.runs.values()} == {"KILLED"}
    assert {len(run.history["val/loss"]) for run in first.runs.values()} == {2}
    again = Parent()
    run_trials([replace(task, run=first.runs[task.number].id) for task in made], again)
    whole = Parent()
    run_trials(made, whole)
    for number, run in again.runs.items():
        assert run.id == first.runs[number].id
        assert run.history["val/loss"] == whole.runs[number].history["val/loss"]
        assert again.outcomes[number] == whole.outcomes[number]
    once_more = Parent()  # the parent died before it received the results
    run_trials([replace(task, run=first.runs[task.number].id) for task in made], once_more)
    assert (once_more.outcomes, once_more.runs) == (again.outcomes, {})


def test_a_trial_whose_worker_died_is_trained_alone():
    """It may have been the cause of death: the others would die with it again."""
    waiting = [SimpleNamespace(number=number) for number in (3, 4, 5, 6, 7)]
    runner = SimpleNamespace(
        options=Search(at_once=3), deaths={3: 1, 4: 2}, _one=lambda place: waiting.pop(0) if waiting else None
    )
    batches = [[task.number for task in StudyRunner._next(runner, 0)] for _ in range(4)]
    assert batches == [[3], [4], [5, 6, 7], []]


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_search_lose_no_trial(forge, home):
    process = forge.start(*WORDS, "--trials", "8", "--epochs", "30")
    wait_for(lambda: sum(len(trial.intermediate_values) > 1 for trial in trials_of(home)) >= 2, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    wait_for(lambda: sum(t.state == TrialState.COMPLETE for t in trials_of(home)) >= 1, process)
    assert process.text.count("another worker resumes the trial") >= 2
    process.kill()
    process.wait(60)
    status, text = forge.run(*WORDS, "--trials", "8", "--epochs", "30", timeout=300)
    assert status == 0, text
    done = trials_of(home)
    assert len(done) == 8
    assert {trial.state for trial in done} <= {TrialState.COMPLETE, TrialState.PRUNED}
    runs = runs_by_trial(parent_of(home))
    assert sorted(runs) == list(range(8))
    assert {run.status for run in runs.values()} == {"FINISHED"}
    for trial in done:
        assert len(runs[trial.number].history["val/accuracy"]) == len(trial.intermediate_values)


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, {"pruner": "thaw"}, "--at_once: not together with --pruner thaw, which pauses one trial at a time"),
        ({}, {"folds": 2}, "--at_once: not together with --folds"),
        ({"optimizer": "SAM"}, {}, "optimizer: SAM does not update each weight .*; leave out --at_once"),
        ({"max_minutes": 1.0}, {}, "max_minutes: .*; leave out --at_once"),
    ],
)
def test_what_does_not_go_together_with_several_trials_at_once_is_refused(changes, options, said, home):
    space = {"loss.label_smoothing": Float(0, 0.2)}
    with pytest.raises(UserError, match=said):
        search(SMALL.but(changes), space, Search(trials=4, at_once=2, **options), QUIET, "tiny")
    assert not list((home / "mlruns" / "runs").glob("*"))


@pytest.mark.slow
def test_further_seeds_of_a_race_are_trained_at_once(home):
    found = search(SMALL, RATES, Search(trials=6, race=3, at_once=3, pruner="none"), QUIET, "tiny")
    runs = list(found.parent.children())
    assert {run.status for run in runs} == {"FINISHED"}
    assert found.verdict.seeds >= 1
    assert {run.record["launch"]["together"] for run in runs} >= {True}
