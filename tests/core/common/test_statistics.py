"""The interval of the difference of two paired proportions."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from core.common.statistics import Z, paired_difference


def score(lost: int, gained: int, n: int, difference: float) -> float:
    """The score statistic by its definition: the share of gained images is the most likely one under the difference."""

    def unlikely(share: float) -> float:
        parts = ((lost, share + difference), (gained, share), (n - lost - gained, 1 - 2 * share - difference))
        return -sum(count * math.log(max(part, 1e-300)) for count, part in parts if count)

    ends = max(0.0, -difference), (1 - difference) / 2
    share = minimize_scalar(unlikely, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    return (lost - gained - n * difference) / math.sqrt(n * (2 * share + difference * (1 - difference)))


@given(st.integers(1, 400), st.data())
def test_the_ends_are_where_the_score_test_just_rejects(n, data):
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    low, high = paired_difference(lost, gained, n)
    assert low <= (lost - gained) / n <= high
    for end, expected in ((low, Z), (high, -Z)):
        if abs(end) < 0.999:
            assert score(lost, gained, n, end) == pytest.approx(expected, abs=2e-3)


@given(st.integers(1, 10_000))
def test_without_a_changed_answer_the_interval_depends_on_the_number_of_images(n):
    low, high = paired_difference(0, 0, n)
    assert high == pytest.approx(Z**2 / (n + Z**2), rel=1e-3)
    assert low == pytest.approx(-high)


def test_the_first_and_the_second_are_treated_alike():
    low, high = paired_difference(7, 2, 150)
    assert paired_difference(2, 7, 150) == pytest.approx((-high, -low))
