"""What a comparison claims, held against what is true: simulated seeds whose means are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from core.compare.statistics import LEVEL, POWER, difference, holm, power, seeds_needed

TIMES = 2000


def draw(generator, n, effect=0.0, paired=True):
    """Two settings of n seeds each; what the seed decides is common to both where the seeds are the same."""
    seeds = generator.normal(0, 1, 2 * n)
    of_b = seeds[:n] if paired else seeds[n:]
    a = effect + seeds[:n] + generator.normal(0, 1, n)
    b = of_b + generator.normal(0, 1, n)
    return dict(enumerate(a)), dict(enumerate(b, start=0 if paired else n))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_of_settings_that_are_the_same_one_in_twenty_is_told_apart(n):
    generator = np.random.default_rng(n)
    found = [difference(*draw(generator, n)) for _ in range(TIMES)]
    assert all(one.paired and one.n == n for one in found)
    assert 0.04 <= np.mean([one.p < LEVEL for one in found]) <= 0.06
    assert 0.94 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.96


@pytest.mark.parametrize("n", [5, 10])
def test_so_it_is_without_common_seeds(n):
    generator = np.random.default_rng(n)
    found = [difference(*draw(generator, n, paired=False)) for _ in range(TIMES)]
    assert not any(one.paired for one in found)
    assert 0.04 <= np.mean([one.p < LEVEL for one in found]) <= 0.06
    assert 0.94 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.96


def test_of_three_unpaired_seeds_it_is_at_most_one_in_twenty():
    """Welch's test is known to be careful with so few."""
    generator = np.random.default_rng(3)
    found = [difference(*draw(generator, 3, paired=False)) for _ in range(TIMES)]
    assert 0.02 <= np.mean([one.p < LEVEL for one in found]) <= 0.055


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("paired", [True, False])
def test_the_stated_power_is_what_simulation_finds(n, paired):
    effect, generator = 1.6, np.random.default_rng(n)
    found = np.mean([difference(*draw(generator, n, effect, paired)).p < LEVEL for _ in range(TIMES)])
    deviation = math.sqrt(2) if paired else 2.0  # the common part, of variance 1 in each, cancels in pairs alone
    assert abs(found - power(effect, deviation, n, paired)) < 0.05


def test_the_seeds_asked_for_show_it_and_fewer_do_not():
    for paired in (True, False):
        n = seeds_needed(0.5, 1.0, paired)
        assert power(0.5, 1.0, n, paired) >= POWER > power(0.5, 1.0, n - 1, paired)
    assert seeds_needed(0.5, 1.0, True, comparisons=5) > seeds_needed(0.5, 1.0, True)
    assert seeds_needed(0.0, 1.0, True) is None
    assert seeds_needed(1e-6, 1.0, True) is None


def test_p_values_and_intervals_are_scipys():
    a, b = {0: 0.81, 1: 0.80, 2: 0.83}, {0: 0.79, 1: 0.80, 2: 0.80}
    paired, welch = difference(a, b), difference(a, dict(enumerate(b.values(), start=3)))
    reference = stats.ttest_rel(list(a.values()), list(b.values()))
    assert paired.p == pytest.approx(reference.pvalue)
    assert (paired.low, paired.high) == pytest.approx(tuple(reference.confidence_interval()))
    reference = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False)
    assert welch.p == pytest.approx(reference.pvalue)
    assert (welch.low, welch.high) == pytest.approx(tuple(reference.confidence_interval()))


def test_only_seeds_that_both_have_are_paired():
    assert difference({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.5, 1: 1.0}).n == 2
    assert not difference({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.5, 7: 1.0}).paired
    assert difference({0: 1.0}, {0: 0.5}) is None
    assert difference({0: 1.0, 1: 2.0}, {5: 0.5}) is None


def test_equal_values_are_no_difference_and_a_constant_one_is_certain():
    assert difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1
    assert difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}).p == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_corrects_upwards_and_keeps_the_order(ps):
    corrected = holm(ps)
    assert all(p <= c <= 1 for p, c in zip(ps, corrected, strict=True))
    order = np.argsort(ps, kind="stable")
    assert sorted(corrected) == [corrected[i] for i in order]
    assert corrected[order[0]] == pytest.approx(min(1, len(ps) * min(ps)))


def test_holm_is_the_papers_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
