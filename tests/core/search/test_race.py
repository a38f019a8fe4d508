"""A race: what is believed of trials after a few seeds, who gets the next one, and studies that do so."""

import json
import os
import signal
import time

import numpy as np
import optuna
import pytest

from core.common.errors import UserError
from core.launch import Launch
from core.search import Float
from core.search.objectives import Goals, goals_of
from core.search.options import Search
from core.search.race import FEWEST, belief, challenger, verdict
from core.search.repeats import REPEATS, SEED, best_of, message, repeat, scores, verdict_of
from core.search.search import search
from core.search.trial import runs_by_trial
from experiments.tiny import EXPERIMENT
from tests.support.studies import children, parent_of, trials_of, wait_for

TINY = EXPERIMENT.but({"limit": 60, "epochs": 1, "monitor": "val/accuracy", "model.widths": (4,)})
SPACE = {"optimizer.lr": Float(0.01, 1.0, log=True)}
QUIET = Launch(mlflow=False, threads=1)


def raced(rng, trials=20, most=8):
    """(true means, scores) of a race among trials that differ as much as their seeds do."""
    means = rng.normal(0.9, 0.01, trials)

    def draw(number):
        return float(rng.normal(means[number], 0.01))

    known = {number: {0: draw(number)} for number in range(trials)}
    while (number := challenger(known, most, True)) is not None:
        known[number][len(known[number])] = draw(number)
    return means, known


def test_a_race_chooses_better_than_the_best_single_score_and_its_interval_covers_the_mean():
    found, lucky, covered, stated = [], [], [], []
    for seed in range(150):
        means, known = raced(np.random.default_rng(seed))
        best = verdict(known)
        first = max(known, key=lambda number: known[number][0])
        found.append(means.max() - means[best.trial])
        lucky.append(means.max() - means[first])
        covered.append(best.low <= means[best.trial] <= best.high)
        stated.append(best.regret)
    assert np.mean(found) < 0.5 * np.mean(lucky)
    assert np.mean(covered) >= 0.93
    assert np.mean(stated) == pytest.approx(np.mean(found), abs=1e-3)


def test_seeds_go_to_what_may_beat_the_best_and_no_further_than_they_may():
    clear = {0: {0: 0.5}, 1: {0: 0.51}, 2: {0: 0.52}, 3: {0: 0.53}, 4: {0: 0.9, 1: 0.9, 2: 0.9}, 5: {0: 0.89}}
    assert challenger(clear, 8, True) == 5
    assert challenger(clear, 8, True, busy={5}) == 4
    assert challenger(clear, 8, True, busy={4, 5}) is None
    assert challenger({n: dict.fromkeys(range(3), v[0]) for n, v in clear.items()}, 3, True) is None
    assert challenger(dict(list(clear.items())[: FEWEST - 1]), 8, True) is None
    unlikely = clear | {5: {0: 0.8}}
    assert challenger(unlikely, 8, True) is not None
    assert challenger(unlikely, 8, False) is None


def test_a_mean_of_few_seeds_is_drawn_toward_all_and_one_of_many_is_not():
    known = {n: {0: 0.9 + n / 1000} for n in range(9)} | {9: {0: 0.92}, 10: dict.fromkeys(range(8), 0.92)}
    now = belief(known)
    assert now.mean[9] < now.mean[10] < 0.92
    assert now.scale[10] < now.scale[9]
    assert now.trials[now.best] == 10


def test_equal_scores_are_no_error():
    same = verdict({n: {0: 1.0} for n in range(6)})
    assert (same.low, same.high, same.regret) == pytest.approx((1.0, 1.0, 0.0))


def study_of(values, direction="maximize"):
    """values: [(value, of, seed)]."""
    study = optuna.create_study(direction=direction)
    for value, of, seed in values:
        attributes = {REPEATS: of, SEED: seed} if seed else {}
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs=attributes))
    return study


def test_a_loss_is_raced_downward_and_reported_as_such():
    study = study_of([(0.5, 0, 0), (0.3, 1, 0), (0.31, 1, 1), (0.29, 2, 0), (0.6, 2, 1)], "minimize")
    assert scores(study)[1] == {0: -0.3, 1: -0.31}
    assert best_of(study)[0].number == 1
    found = verdict_of(study)
    assert found.low < 0.305 < found.high
    assert "trial 1 leads the race with 2 seeds: loss 0.3" in message(study, Goals(("val/loss",), "best"))
    assert repeat(study, 2).user_attrs == {REPEATS: 2, SEED: 2}


def test_a_trial_that_fails_with_one_of_its_seeds_is_out_of_the_race():
    study = study_of([(0.5, 0, 0), (0.9, 1, 0), (0.8, 1, 1)])
    failed = optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL, user_attrs={REPEATS: 1, SEED: 2, "error": "NonFinite"}
    )
    study.add_trial(failed)
    assert scores(study) == {0: {0: 0.5}}
    assert best_of(study)[0].number == 0


def test_without_a_race_the_best_trial_is_the_one_of_the_best_value():
    study = study_of([(0.5, 0, 0), (0.9, 1, 0)])
    assert verdict_of(study) is None
    assert [trial.number for trial in best_of(study)] == [1, 0]


@pytest.mark.usefixtures("warm")
def test_a_study_races_and_its_further_seeds_are_runs_on_record(home):
    found = search(TINY, SPACE, Search(trials=FEWEST, race=2, pruner="none"), QUIET, "tiny")
    trials = found.study.get_trials()
    further = [trial for trial in trials if REPEATS in trial.user_attrs]
    assert len(trials) - len(further) == FEWEST
    assert {trial.user_attrs[SEED] for trial in further} == {1}
    runs = runs_by_trial(found.parent)
    for trial in further:
        first, run = runs[trial.user_attrs[REPEATS]], runs[trial.number]
        assert run.experiment == first.experiment.but({"seed": first.experiment.seed + 1})
        assert trial.value == max(run.history["val/accuracy"].values())
        assert "test/accuracy" not in run.metrics
    kept = json.loads((found.parent.folder / "artifacts" / "best.json").read_text())
    assert kept["trial"] == found.verdict.trial == found.best[0].number
    assert kept["declaration"]["seed"] == TINY.seed
    assert kept["scores"] == {"val/accuracy": found.verdict.mean}
    assert found.parent.metrics["study/race_expected_regret"] == found.verdict.regret
    assert found.lines == (message(found.study, found.goals),)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"confirm": 2}, "--confirm: not together with --race"), ({"goal": ("val/accuracy", "parameters")}, "one goal")],
)
def test_what_does_not_go_together_with_a_race_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        goals_of(Search(race=4, **options), TINY, SPACE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_race_whose_worker_and_parent_are_killed_has_each_seed_once(forge, home):
    words = ("experiments.tiny", "search", "--goal", "val/accuracy", "--limit", "320", "--epochs", "6", "--threads",
             "1", "--trials", "8", "--workers", "2", "--pruner", "none", "--mlflow", "false",
             "--checkpoint-every", "2")  # fmt: skip

    def racing():
        return any(REPEATS in trial.user_attrs and not trial.state.is_finished() for trial in trials_of(home))

    process = forge.start(*words, "--race", "4")
    wait_for(racing, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    time.sleep(2)
    wait_for(racing, process)
    process.kill()
    process.wait(60)
    status, text = forge.run(*words, "--race", "4", timeout=600)
    assert status == 0, text
    assert "leads the race" in text
    done = trials_of(home)
    assert {trial.state for trial in done} == {optuna.trial.TrialState.COMPLETE}
    named = [(t.user_attrs.get(REPEATS, t.number), t.user_attrs.get(SEED, 0)) for t in done]
    assert len(set(named)) == len(named)
    assert len(named) > 8
    runs = runs_by_trial(parent_of(home))
    assert sorted(runs) == list(range(len(done)))
    assert {run.status for run in runs.values()} == {"FINISHED"}
