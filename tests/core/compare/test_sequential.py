"""Looks after every seed: what is decided is wrong once in twenty at most, and does not depend on when it is asked."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from core.compare.sequential import (
    FIRST,
    Rule,
    boundary,
    critical,
    deciding_look,
    look,
    paired,
    seeds_to_go,
    t_statistics,
)
from tests.support import edits

TIMES = 4000
values = st.lists(st.floats(-1, 1, width=16), min_size=FIRST, max_size=12)


def rule(budget=12, least=None, pairs=1):
    return Rule(least, budget, boundary(pairs, budget))


def decided(differences, given_rule, resolution=0.0):
    zeros = dict.fromkeys(range(len(differences)), 0.0)
    return deciding_look(dict(enumerate(differences)), zeros, given_rule, resolution)


@pytest.mark.parametrize(("pairs", "budget"), [(1, 10), (1, 40), (4, 40)])
def test_of_equal_settings_one_in_twenty_is_ever_shown_to_differ(pairs, budget):
    random = np.random.default_rng(pairs)
    base = random.normal(size=(TIMES, budget))
    shown = np.zeros(TIMES, dtype=bool)
    limits = [critical(n - 1, boundary(pairs, budget)) for n in range(FIRST, budget + 1)]
    for _ in range(pairs):
        shown |= (t_statistics(random.normal(size=(TIMES, budget)) - base) > limits).any(axis=1)
    # pairs that share a baseline err together, so that the share of false tables is smaller
    assert (0.041 if pairs == 1 else 0.025) <= shown.mean() <= 0.059


def test_all_intervals_of_all_looks_hold_together():
    random, budget = np.random.default_rng(0), 20
    n = np.arange(FIRST, budget + 1)
    paths = random.normal(0.7, 1, (TIMES, budget))
    halves = np.array([critical(k - 1, boundary(1, budget)) for k in n])
    missed = (t_statistics(paths - 0.7) > halves).any(axis=1)  # 0.7 is outside of mean +- half error
    one = decided(paths[0], Rule(None, FIRST, boundary(1, budget)))
    error = paths[0, :FIRST].std(ddof=1) / FIRST**0.5
    assert (one.high - one.low) / 2 == pytest.approx(halves[0] * error)
    assert missed.mean() <= 0.059


def test_one_look_is_the_t_test_and_more_pairs_or_looks_have_smaller_levels():
    assert 0.049 <= boundary(1, FIRST) <= 0.05
    levels = [boundary(1, budget) for budget in (FIRST, 5, 10, 20, 40)]
    assert all(a > b for a, b in pairwise(levels))
    levels = [boundary(pairs, 20) for pairs in (1, 2, 5, 10)]
    assert all(a > b for a, b in pairwise(levels))
    assert boundary(1, 40) == 0.0055  # a plan on record depends on it


@given(values)
def test_looks_are_those_of_students_t(differences):
    found = paired(dict(enumerate(differences)), dict.fromkeys(range(99), 0.0), list(range(len(differences))))
    if np.ptp(differences) > 1e-3:
        expected = stats.ttest_1samp(differences, 0)
        assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
        statistic = t_statistics(np.array([differences]))[0, -1]
        assert statistic == pytest.approx(abs(expected.statistic), rel=1e-6, abs=1e-9)


@given(values, values, st.sampled_from([None, 0.2, 0.5]))
def test_a_decision_does_not_change_with_further_seeds(before, after, least):
    own = rule(24, least)
    first = decided(before, own, 0.01)
    if first.verdict:
        assert decided(before + after, own, 0.01) == first
    else:
        assert decided(before + after, own, 0.01).n > first.n


@given(values, st.sampled_from([None, 0.1, 0.5]))
def test_a_verdict_says_what_its_interval_says(differences, least):
    found = decided(differences, rule(12, least), 0.01)
    inside = least is not None and -least < found.low and found.high < least
    outside = not found.low <= 0 <= found.high
    expected = "shown" if outside else "not as large" if inside else "undecided" if found.n == 12 else None
    assert found.verdict == expected


@given(values)
def test_the_order_of_two_settings_turns_the_sign_alone(differences):
    a, b = dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0)
    one, other = deciding_look(a, b, rule(), 0.01), deciding_look(b, a, rule(), 0.01)
    assert (one.n, one.verdict) == (other.n, other.verdict)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_seeds_to_go_is_when_it_is_decided_if_mean_and_deviation_stay():
    own = rule(40, 0.3)
    for mean in (0.0, 0.25, 0.6, 1.0):
        found = decided([mean - 1, mean, mean + 1], own)
        needed = seeds_to_go(found, own)
        for n in range(FIRST + 1, 41):
            half = critical(n - 1, own.boundary) / n**0.5
            if mean > half or mean + half < 0.3:
                assert needed == n - FIRST
                break
        else:
            assert needed is None


def test_equal_differences_of_few_images_are_no_certainty():
    differences = [1 / 72] * 3
    assert decided(differences, rule()).verdict == "shown"  # without its resolution
    assert decided(differences, rule(), 1 / 72).verdict is None
    assert decided([0.0] * 3, rule(12, 0.003), 1 / 72).verdict is None
    assert decided([0.0] * 3, rule(12, 0.003)).verdict == "not as large"  # a loss, equal to the bit
    assert paired({0: 0.5, 1: 0.7}, {0: 0.1, 1: 0.2}, [0, 1], 0.001).deviation == pytest.approx(0.1 / 2**0.5)


@pytest.mark.parametrize("images", [72, 1438])
def test_accuracies_of_few_images_do_not_err_more_often(images):
    random, own, shown = np.random.default_rng(images), rule(10), 0
    for _ in range(1000):
        each = np.round((0.97 + random.normal(0, 0.01, (2, 10))) * images) / images
        found = deciding_look(dict(enumerate(each[0])), dict(enumerate(each[1])), own, 1 / images)
        shown += found.verdict == "shown"
    assert shown <= 65


def loop(accepts, number, gain=0.0):
    """The edits of 100 that are kept."""
    return edits.kept(edits.drawn(number, 100, 20, gain), range(1, 101), accepts)


def test_a_program_that_edits_keeps_few_of_100_edits_that_change_nothing():
    found = [loop(edits.accepted(rule(20)), number) for number in range(8)]
    assert max(map(len, found)) <= 5
    assert sum(each[:1] == [1] for each in found) <= 1
    naive = [loop(edits.better, number) for number in range(100)]
    assert 30 <= sum(each[:1] == [1] for each in naive) <= 70  # about half of the first ones


def test_a_program_that_edits_keeps_what_is_better():
    assert set(range(10, 101, 10)) <= set(loop(edits.accepted(rule(20)), 0, gain=0.05))


def test_a_pair_that_has_its_budget_is_undecided():
    found = look(paired({0: 0.0, 1: 1.0, 2: -1.1}, dict.fromkeys(range(3), 0.0), [0, 1, 2]), rule(3))
    assert found.verdict == "undecided"
    assert decided([0.0, 1.0], rule(3)) is None
