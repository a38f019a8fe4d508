"""The pruner that pauses trials: which trial is resumed next, and studies that pause trials and resume them."""

import os
import signal
import time

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from safetensors.torch import load_file

from core.common.errors import UserError
from core.compare.listing import Wanted, listed
from core.launch import Launch
from core.record.run import WEIGHTS
from core.runs.train import train
from core.search import Float
from core.search.objectives import goals_of
from core.search.options import Search
from core.search.repeats import DECLARED
from core.search.search import search
from core.search.thaw import PAUSED, due, due_in, is_paused, proposal, rungs
from core.search.trial import runs_by_trial
from experiments.tiny import EXPERIMENT
from tests.support.studies import children, parent_of, trials_of, wait_for

TINY = EXPERIMENT.but({"limit": 60, "epochs": 3, "monitor": "val/accuracy", "model.widths": (4,)})
SPACE = {"optimizer.lr": Float(0.001, 1.0, log=True)}
QUIET = Launch(mlflow=False, threads=1)
FIRST, SECOND = 1, 3


@pytest.mark.parametrize(("epochs", "levels"), [(1, ()), (2, (1,)), (10, (1, 3)), (27, (1, 3, 9)), (60, (2, 7, 20))])
def test_rungs_are_a_third_a_ninth_and_a_27th(epochs, levels):
    assert rungs(epochs) == levels


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.booleans())
def test_a_replay_takes_up_the_best_third_of_each_rung_and_ends(values, ending):
    reached = {number: {FIRST: value} for number, value in enumerate(values)}
    paused = dict.fromkeys(reached, FIRST)
    taken = []
    while (number := due(reached, paused, (FIRST, SECOND), ending)) is not None:
        if paused[number] == FIRST:
            taken.append(number)
            reached[number][SECOND] = paused[number] = SECOND
        else:
            del paused[number]
    third = -(-len(values) // 3) if ending else len(values) // 3
    assert sorted(taken) == sorted(sorted(reached, key=lambda n: (-values[n], n))[:third])


def test_a_trial_that_was_not_due_falls_due_when_worse_ones_follow():
    reached, paused = {0: {FIRST: 0.5}, 1: {FIRST: 0.9}, 2: {FIRST: 0.1}}, {0: FIRST, 2: FIRST}
    assert due(reached, paused, (FIRST, SECOND), False) is None
    reached |= {n: {FIRST: 0.1} for n in (3, 4, 5)}
    assert due(reached, paused, (FIRST, SECOND), False) == 0


def study_of(curves, direction="maximize", declared=False):
    """curves: of each paused trial, {epoch: value}.  declared: the first one is the declaration, and not paused."""
    study = optuna.create_study(direction=direction)
    for number, curve in enumerate(curves):
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                intermediate_values=curve,
                user_attrs={DECLARED: True} if declared and not number else {PAUSED: max(curve)},
                params={"optimizer.lr": 0.1},
                distributions={"optimizer.lr": optuna.distributions.FloatDistribution(0.001, 1.0, log=True)},
            )
        )
    return study


def test_trials_are_ranked_by_their_best_value_so_far_unless_the_last_epoch_counts():
    fell, rose, other = {1: 0.9, 2: 0.9, 3: 0.1}, {1: 0.1, 2: 0.1, 3: 0.5}, {1: 0.1, 2: 0.1, 3: float("nan")}
    study = study_of([rose, fell, other])
    assert due_in(study, 10, best=True, ending=False) == 1
    assert due_in(study, 10, best=False, ending=False) == 0
    downward = study_of([rose, fell, other], "minimize")
    assert due_in(downward, 10, best=False, ending=False) == 1


def test_the_declaration_which_is_trained_to_the_end_takes_no_place_of_another_trial():
    study = study_of([{1: 0.9, 2: 0.9}, {1: 0.5}, {1: 0.4}])
    assert due_in(study, 10, best=True, ending=True) is None
    study = study_of([{1: 0.9, 2: 0.9}, {1: 0.5}, {1: 0.4}], declared=True)
    assert due_in(study, 10, best=True, ending=True) == 1


def test_a_sampler_learns_from_paused_trials():
    study = study_of([{1: 0.1}, {1: 0.9}])
    told = []
    study.sampler.sample_independent = lambda study, *_: told.extend(study.get_trials()) or 0.5
    study.sampler.infer_relative_search_space = lambda *_: {}
    assert proposal(study, SPACE).state == TrialState.RUNNING
    assert [trial.state for trial in told[:2]] == [TrialState.PRUNED] * 2
    assert all(is_paused(trial) for trial in study.get_trials())


@pytest.mark.usefixtures("warm")
def test_a_study_pauses_trials_and_those_taken_up_again_equal_uninterrupted_runs(home):
    found = search(TINY, SPACE, Search(trials=4, pruner="thaw", sampler="random"), QUIET, "tiny")
    trials, runs = found.study.get_trials(), runs_by_trial(found.parent)
    paused = [trial for trial in trials if is_paused(trial)]
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(trials) == 4
    assert [len(paused), len(done)] == [2, 2]  # the declaration, and the best of the others
    assert all(max(trial.intermediate_values) == 1 for trial in paused)
    shown = {run.trial: run.status for run in listed(Wanted()) if run.trial is not None}
    assert {number for number, status in shown.items() if status == "PAUSED"} == {trial.number for trial in paused}
    assert {shown[trial.number] for trial in done} == {"FINISHED"}
    assert min(t.intermediate_values[1] for t in done[1:]) >= max(t.intermediate_values[1] for t in paused)
    assert found.best[0].number in {trial.number for trial in done}
    taken_up = runs[done[1].number]
    alone = train(taken_up.experiment, QUIET, "tiny")
    assert taken_up.history["train/loss"] == alone.history["train/loss"]
    first, second = (load_file(run.artifact(WEIGHTS)) for run in (taken_up, alone))
    assert all(first[name].equal(second[name]) for name in first)

    more = search(TINY, SPACE, Search(trials=8, pruner="thaw", sampler="random"), QUIET, "tiny")
    after = more.study.get_trials()
    assert len(after) == 8
    assert sum(trial.state == TrialState.COMPLETE for trial in after) >= 3
    assert {trial.state for trial in after} == {TrialState.COMPLETE, TrialState.RUNNING}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"goal": ("val/accuracy", "parameters")}, "one validation metric, not by val/accuracy,parameters"),
        ({"goal": ("seconds",)}, "one validation metric, not by seconds"),
        ({"folds": 3}, "not together with --folds"),
        ({"race": 3}, "not together with --race"),
        ({"storage": "postgresql://host/studies"}, "not together with --storage"),
    ],
)
def test_what_does_not_go_together_with_pausing_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        goals_of(Search(pruner="thaw", **options), TINY, SPACE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_whose_worker_and_parent_are_killed_has_each_trial_once(forge, home):
    words = ("experiments.tiny", "search", "--goal", "val/accuracy", "--limit", "320", "--epochs", "9", "--threads",
             "1", "--trials", "9", "--workers", "2", "--pruner", "thaw", "--mlflow", "false",
             "--checkpoint-every", "2")  # fmt: skip

    process = forge.start(*words)
    wait_for(lambda: sum(map(is_paused, trials_of(home))) >= 2, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    time.sleep(2)
    wait_for(lambda: sum(map(is_paused, trials_of(home))) >= 3, process)
    process.kill()
    process.wait(60)
    status, text = forge.run(*words, timeout=600)
    assert status == 0, text
    assert "paused trials keep" in text
    done = trials_of(home)
    assert len(done) == 9
    assert sum(trial.state == TrialState.COMPLETE for trial in done) >= 2
    assert all(trial.state == TrialState.COMPLETE or is_paused(trial) for trial in done)
    runs = runs_by_trial(parent_of(home))
    assert sorted(runs) == list(range(9))
    assert {runs[trial.number].status for trial in done if not is_paused(trial)} == {"FINISHED"}
    for trial in done:
        assert len(runs[trial.number].history["val/accuracy"]) == max(trial.intermediate_values)
