"""Randomness from keys: the same on any platform, in numpy and torch, and free of patterns."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core import randomness

SEEDS = st.integers(0, 2**63 - 1)


def test_golden_values():
    """Written down once: a change of hash, order or platform shows here before it shows in a result."""
    index = np.arange(4)
    assert randomness.key(0, 1, "x").tolist() == GOLDEN["key"]
    assert randomness.sample_keys(7, 2, index).tolist() == GOLDEN["sample"]
    assert randomness.uniform(randomness.sample_keys(7, 2, index), "flip").tolist() == GOLDEN["uniform"]
    assert randomness.permutation(7, 2, 8).tolist() == GOLDEN["permutation"]
    assert randomness.step_seeds(7, 0, 10, 2) == GOLDEN["step"]


GOLDEN = {
    "key": [3140041583246545403],
    "sample": [-6012545673078896645, -408574565920626706, -965015147610392794, 8958611620276403497],
    "uniform": [0.8628121614456177, 0.9972423911094666, 0.7911512851715088, 0.8636201024055481],
    "permutation": [2, 4, 5, 3, 1, 7, 0, 6],
    "step": [6707162135530487736, 2527845440791354034],
}


@given(SEEDS, st.integers(0, 10_000), st.integers(1, 300))
def test_numpy_and_torch_agree_to_the_bit(seed, epoch, n):
    sampled = randomness.sample_keys(seed, epoch, np.arange(n))
    on_torch = torch.from_numpy(sampled)
    assert randomness.mix(on_torch).tolist() == randomness.mix(sampled).tolist()
    assert randomness.uniform(on_torch, "p").tolist() == randomness.uniform(sampled, "p").tolist()
    assert randomness.integers(on_torch, "p", 9).tolist() == randomness.integers(sampled, "p", 9).tolist()


@given(SEEDS, st.integers(0, 1000), st.integers(0, 500))
def test_a_permutation_holds_every_index_once(seed, epoch, n):
    assert sorted(randomness.permutation(seed, epoch, n).tolist()) == list(range(n))


@given(SEEDS, st.integers(0, 100), st.sets(st.integers(0, 10**6), min_size=1, max_size=50))
def test_the_key_of_a_sample_depends_on_nothing_but_itself(seed, epoch, wanted):
    index = np.array(sorted(wanted))
    together = randomness.sample_keys(seed, epoch, index)
    alone = [randomness.sample_keys(seed, epoch, index[i : i + 1])[0] for i in range(len(index))]
    assert together.tolist() == alone


@given(SEEDS, st.integers(1, 2**20))
def test_integers_stay_in_range(seed, n):
    drawn = randomness.integers(randomness.sample_keys(seed, 0, np.arange(100)), "x", n)
    assert drawn.min() >= 0
    assert drawn.max() < n


@pytest.mark.parametrize("other", [(1, 0, "a"), (0, 1, "a"), (0, 0, "b")], ids=["seed", "epoch", "purpose"])
def test_streams_are_uniform_and_unrelated(other):
    index = np.arange(200_000)
    base = randomness.uniform(randomness.sample_keys(0, 0, index), "a")
    seed, epoch, purpose = other
    changed = randomness.uniform(randomness.sample_keys(seed, epoch, index), purpose)
    for drawn in (base, changed):
        counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
        # chi-squared with 99 degrees of freedom: above 160 once in 10,000 times
        assert ((counts - 2000) ** 2 / 2000).sum() < 160
        assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(base, changed)[0, 1]) < 0.01


def test_steps_of_a_resumed_run_get_the_seeds_of_the_first():
    assert randomness.step_seeds(3, 0, 0, 10)[4:] == randomness.step_seeds(3, 0, 4, 6)
    assert randomness.step_seeds(3, 0, 0, 10) != randomness.step_seeds(3, 1, 0, 10)
