"""The bank and its replays, on banks small enough to be made here."""

from functools import partial

import numpy as np
import optuna
import pytest

from tests.bank.declared import COUNT, SPACE, declarations, digest, parameters
from tests.bank.replay import Bank, Replay, Tpe, at_random, confirmed, hyperband, nearest, raced, single
from tests.bank.trained import fill, path_of, read

DIGEST = "773a08ad11b6e84f"  # of the declarations: a bank that was trained with others is refused


@pytest.fixture(scope="module")
def bank():
    """Curves of 64 declarations whose means differ less than their 12 seeds do."""
    rng = np.random.default_rng(0)
    final = rng.normal(0.95, 0.004, (COUNT, 1, 1)) + rng.normal(0, 0.01, (COUNT, 12, 1))
    rate = rng.uniform(0.15, 0.5, (COUNT, 1, 1))
    return Bank(final - 0.5 * np.exp(-rate * np.arange(1, 13)) + rng.normal(0, 0.002, (COUNT, 12, 12)))


def replay(bank, seed, budget=np.inf, trials=20):
    rng = np.random.default_rng(seed)
    return Replay(bank, at_random(bank, rng), rng, budget, trials)


def test_the_declarations_are_those_that_banks_were_trained_with():
    experiments = declarations()
    assert len({str(experiment.flat()) for experiment in experiments}) == COUNT
    assert digest(experiments) == DIGEST


def test_a_bank_that_was_stopped_goes_on_and_one_of_other_declarations_is_refused(tmp_path):
    small = [each.but({"epochs": 1, "limit": 60, "model.widths": (4,)}) for each in declarations()[:2]]
    runs = fill(tmp_path / "bank", small, 2, "a")
    assert [next(runs) for _ in range(3)] == [(0, 0), (0, 1), (1, 0)]
    runs.close()
    assert list(fill(tmp_path / "bank", small, 2, "a")) == [(1, 1)]
    assert len(list(fill(tmp_path / "whole", small, 2, "a"))) == 4
    for number in range(2):
        halted, whole = (read(path_of(tmp_path / name, number), "a") for name in ("bank", "whole"))
        assert halted.keys() == whole.keys()
        for name, values in whole.items():
            assert np.array_equal(values, halted[name]), name
    with pytest.raises(ValueError, match="other declarations"):
        list(fill(tmp_path / "bank", small, 3, "b"))


def test_the_median_rule_is_that_of_optunas_pruner_as_labbook_sets_it(bank):
    from core.search.samplers import pruner

    for seed in range(3):
        mine = replay(bank, seed, trials=30)
        lengths = [_length(mine) for _ in range(30)]
        other = replay(bank, seed, trials=30)
        study = optuna.create_study(direction="maximize", pruner=pruner("median", bank.epochs, 30))
        theirs = [_length(other, partial(_asked, study)) for _ in range(30)]
        assert lengths == theirs
        assert min(lengths) < bank.epochs


def _length(replay, rule=None):
    before = replay.spent
    replay.trial(rule or replay.median)
    return replay.spent - before


def _asked(study, curve):
    """Epochs after which Optuna's pruner ends a curve."""
    trial = study.ask()
    for epoch, value in enumerate(curve[:-1], 1):
        trial.report(float(value), epoch)
        if trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return epoch
    trial.report(float(curve[-1]), len(curve))
    study.tell(trial, float(curve.max()))
    return len(curve)


def test_the_race_has_less_regret_than_todays_search_in_as_many_epochs(bank):
    race = [raced(replay(bank, seed)) for seed in range(40)]
    today = [single(replay(bank, seed, each.epochs)) for seed, each in enumerate(race)]
    assert max(each.epochs for each in today) <= max(each.epochs for each in race)
    regrets = [np.mean([bank.regret(each.declaration) for each in found]) for found in (race, today)]
    assert regrets[0] < 0.8 * regrets[1]
    covered = [r.verdict.low <= bank.means[r.declaration] <= r.verdict.high for r in race]
    assert np.mean(covered) > 0.8


@pytest.mark.parametrize("rule", [confirmed, hyperband])
def test_other_rules_keep_to_the_budget(bank, rule):
    found = rule(replay(bank, 3, budget=300))
    assert 200 < found.epochs <= 300
    assert found.declaration in found.tried


def test_a_proposal_becomes_the_declaration_that_is_nearest(bank):
    for number, params in enumerate(parameters()):
        assert nearest(params, set()) == number
        assert nearest(params, {number}) != number
    rng = np.random.default_rng(0)
    study = Replay(bank, Tpe(rng), rng, 100, 5)
    while study.trial(study.median):
        pass
    assert study.told[0].declaration == 0
    assert len({told.declaration for told in study.told}) > 3
    assert len(SPACE) == 6
