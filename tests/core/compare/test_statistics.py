"""What a comparison claims, held against what is true: simulated seeds whose means are known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.common.statistics import mean_and_interval
from core.compare.statistics import (
    LEVEL,
    POWER,
    Difference,
    difference,
    first_family,
    holm,
    power,
    second_family,
    seeds_needed,
)  # fmt: skip

TIMES = 2000


def draw(generator, n, effect=0.0, paired=True):
    """Two settings of n seeds each; what the seed decides is common to both where the seeds are the same."""
    seeds = generator.normal(0, 1, 2 * n)
    of_b = seeds[:n] if paired else seeds[n:]
    a = effect + seeds[:n] + generator.normal(0, 1, n)
    b = of_b + generator.normal(0, 1, n)
    return dict(enumerate(a)), dict(enumerate(b, start=0 if paired else n))


def within(interval, value):
    low, high = interval
    return low <= value <= high


def measured(effect, deviation, n=2, paired=True, overlap=0.0):
    """A difference of this size."""
    error = deviation * math.sqrt(1 / n + overlap)
    return Difference(effect, (effect, 0.0), error, n - 1.0, n, paired, deviation, overlap)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_of_equal_settings_one_in_twenty_differs_significantly(n):
    generator = np.random.default_rng(n)
    found = [difference(*draw(generator, n)) for _ in range(TIMES)]
    assert all(one.paired and one.n == n for one in found)
    assert 0.04 <= np.mean([one.p < LEVEL for one in found]) <= 0.06
    assert 0.94 <= np.mean([within(one.interval(), 0) for one in found]) <= 0.96


@pytest.mark.parametrize("n", [5, 10])
def test_so_it_is_without_common_seeds(n):
    generator = np.random.default_rng(n)
    found = [difference(*draw(generator, n, paired=False)) for _ in range(TIMES)]
    assert not any(one.paired for one in found)
    assert 0.04 <= np.mean([one.p < LEVEL for one in found]) <= 0.06
    assert 0.94 <= np.mean([within(one.interval(), 0) for one in found]) <= 0.96


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
        n = seeds_needed(measured(0.5, 1.0, paired=paired))
        assert power(0.5, 1.0, n, paired) >= POWER > power(0.5, 1.0, n - 1, paired)
    assert seeds_needed(measured(0.5, 1.0), lambda n: LEVEL / 5) > seeds_needed(measured(0.5, 1.0))
    assert seeds_needed(measured(0.0, 1.0)) is None
    assert seeds_needed(measured(1e-6, 1.0)) is None


def test_the_interval_of_folds_is_corrected_as_by_hand():
    """The differences 1, 2, 3 of three folds: variance 1, times 1/3 + 1/2, with t = 4.302653 of 2 degrees of
    freedom."""
    mean, std, half = mean_and_interval([1.0, 2.0, 3.0], 0.5)
    assert (mean, std) == (2.0, 1.0)
    assert half == pytest.approx(4.302653 * math.sqrt(5 / 6), rel=1e-6)
    one = difference({1: 1.0, 2: 3.0, 3: 5.0}, {1: 0.0, 2: 1.0, 3: 2.0}, (0.5, 0.5))
    assert (one.paired, one.mean) == (True, 2.0)
    assert one.interval() == pytest.approx((2 - half, 2 + half), rel=1e-6)
    statistic = 2 / math.sqrt(5 / 6)  # of which p = 1 - t / sqrt(2 + t^2) with 2 degrees of freedom
    assert one.p == pytest.approx(1 - statistic / math.sqrt(2 + statistic**2), rel=1e-9)


def test_more_folds_cannot_show_what_their_overlap_hides():
    assert seeds_needed(measured(1.0, 1.0)) == 10
    assert seeds_needed(measured(1.0, 1.0, overlap=0.1)) > 10
    assert seeds_needed(measured(1.0, 1.0, overlap=0.5)) is None


A = (0.9541, 0.9562, 0.9533, 0.9571, 0.9549)
B = (0.9502, 0.9548, 0.9510, 0.9513, 0.9530)
PINNED = {  # values of a, values of b, first seed of b -> low, high, p by the formulas of the t distribution
    "paired": (A, B, 0, 0.0008308759280078663, 0.005289124071992125, 0.018918558752257602),
    "two_pairs": (A[:2], B[:2], 0, -0.013232755920217339, 0.01853275592021731, 0.2805907043841394),
    "unpaired": (A, B, 5, 0.0005714682916786481, 0.005548531708321255, 0.02213232647835226),
    "unequal_numbers": (A, B[:2], 5, -0.01864375140311644, 0.02388375140311635, 0.44899462487179853),
    "one_side_constant": (A, (0.95, 0.95), 5, 0.0032076761945003724, 0.007032323805499655, 0.00174864044630976),
    "large": ((1e6, 1.5e6, 1.2e6), (9e5, 1e6, 1.1e6), 0, -340353.6972999282, 807020.3639665949, 0.22222222222222215),
}


@pytest.mark.parametrize("case", PINNED)
def test_intervals_and_p_values_are_those_of_the_formulas(case):
    a, b, first, *expected = PINNED[case]
    found = difference(dict(enumerate(a)), dict(enumerate(b, start=first)))
    assert (*found.interval(), found.p) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-12)


@pytest.mark.filterwarnings("error")
def test_differences_that_are_equal_but_for_rounding_warn_nobody():
    found = difference({0: 0.81, 1: 0.82, 2: 0.83}, {0: 0.80, 1: 0.81, 2: 0.82})
    assert (found.mean, *found.interval()) == pytest.approx((0.01, 0.01, 0.01))
    assert found.p < 1e-20


def test_only_seeds_that_both_have_are_paired():
    assert difference({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.5, 1: 1.0}).n == 2
    assert not difference({0: 1.0, 1: 2.0, 2: 9.0}, {0: 0.5, 7: 1.0}).paired
    assert difference({0: 1.0}, {0: 0.5}) is None
    assert difference({0: 1.0, 1: 2.0}, {5: 0.5}) is None


def test_equal_values_are_no_difference_and_a_constant_one_is_certain():
    assert difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1
    assert difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}).p == 0


@pytest.mark.parametrize("apart", [0, 3], ids=["paired", "unpaired"])
def test_three_equal_accuracies_on_72_images_do_not_mean_that_there_is_no_variation(apart):
    a, b = dict.fromkeys(range(3), 71 / 72), dict.fromkeys(range(apart, apart + 3), 70 / 72)
    found = difference(a, b, resolution=1 / 72)
    assert found.mean == pytest.approx(1 / 72)
    assert found.p > 0.01
    assert found.error == pytest.approx(math.sqrt(2 / 12 / 3) / 72)
    wide = {0: 0.5, 1: 0.7, 2: 0.9}
    assert difference(wide, b, resolution=1 / 72).error == pytest.approx(difference(wide, b).error, rel=0.01)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_corrects_upwards_and_keeps_the_order(ps):
    corrected = holm(ps)
    assert all(p <= c <= 1 for p, c in zip(ps, corrected, strict=True))
    order = np.argsort(ps, kind="stable")
    assert sorted(corrected) == [corrected[i] for i in order]
    assert corrected[order[0]] == pytest.approx(min(1, len(ps) * min(ps)))


def test_holm_is_the_papers_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=12))
def test_the_level_of_an_interval_agrees_with_the_corrected_p_value(ps):
    for p, corrected, level in zip(ps, *first_family(ps), strict=True):
        if abs(corrected - LEVEL) > 1e-9:
            assert (p < level) == (corrected < LEVEL)
        assert p <= corrected <= 1
        assert LEVEL / len(ps) * min(1, p) <= level <= LEVEL
    assert first_family([0.3]) == ([0.3], [LEVEL])


def test_comparisons_with_the_baseline_are_corrected_between_bonferroni_and_holm():
    """By hand: the steps of three tests are 1/3, 1/4 + 1/6 and 1/2 + 1/6 of the level."""
    corrected, _ = first_family([0.04, 0.001, 0.01])
    assert corrected == pytest.approx([0.04 / (1 / 2 + 1 / 6), 0.003, 0.01 / (1 / 4 + 1 / 6)])


@pytest.mark.parametrize(("better", "effect"), [(0, 0.0), (2, 1.5), (2, 20.0)])
def test_one_table_in_twenty_has_an_error(better, effect):
    """Five settings and a baseline; `better` of them differ from it, and none from each other within their group."""
    generator, wrong, n = np.random.default_rng(better), 0, 5
    for _ in range(TIMES // 4):
        values = generator.normal(size=(6, n))
        values[1 : 1 + better] += effect
        rows = [dict(enumerate(row)) for row in values]
        truth = [0, *[1] * better, *[0] * (5 - better)]
        gates, _ = first_family([difference(row, rows[0]).p for row in rows[1:]])
        mistakes = [gate < LEVEL and truth[i] == 0 for i, gate in enumerate(gates, start=1)]
        for i in (i for i, gate in enumerate(gates, start=1) if gate < LEVEL):
            others = [j for j in range(1, 6) if j != i]
            ps = second_family(gates[i - 1], [difference(rows[i], rows[j]).p for j in others], 5)
            mistakes += [p < LEVEL and truth[i] == truth[j] for j, p in zip(others, ps, strict=True)]
        wrong += any(mistakes)
    assert wrong / (TIMES // 4) <= 0.07


def test_the_better_of_two_that_beat_the_baseline_is_found():
    p = difference({0: 0.95, 1: 0.953, 2: 0.951}, {0: 0.92, 1: 0.922, 2: 0.9213}).p
    assert second_family(0.01, [p, 0.9], 2)[0] < LEVEL < second_family(0.06, [p, 0.9], 2)[0]
