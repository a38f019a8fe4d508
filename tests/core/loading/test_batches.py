"""What comes at (epoch, step) for rank r of n: the same by every way, from every starting point, for any number of
workers and ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.augment import Albumentation, per_image
from core.loading.batches import Plan
from core.loading.images import Images
from core.loading.loader import Fetch, Host, Resident, feed

CPU = torch.device("cpu")
STEPS = (Albumentation(name="ColorJitter", arguments={"p": 1.0}), Albumentation(name="HorizontalFlip"))


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 3), dtype=np.uint8)
    rows = np.random.default_rng(1).permutation(150)[:100]
    return Images(pixels, rows, np.arange(100) % 10)


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shuffled", [True, False])
def test_resident_and_host_give_the_same_batches(images, shuffled):
    plan = Plan(100, 32, seed=5, shuffled=shuffled)
    resident, host = Resident.of(plan, images, CPU), Host.of(plan, Fetch(images), CPU, workers=0)
    for epoch in (0, 3):
        pairs = list(zip(resident.epoch(epoch), host.epoch(epoch), strict=True))
        assert len(pairs) == len(plan) == (3 if shuffled else 4)
        assert all(same(a, b) for a, b in pairs)


def test_a_batch_holds_the_pixels_and_targets_of_its_index(images):
    batch = next(iter(feed(Plan(100, 32), images, CPU).epoch(0)))
    at = batch.index.numpy()
    assert np.array_equal(batch.images.numpy(), images.pixels[images.rows[at]])
    assert np.array_equal(batch.targets.numpy(), images.targets[at])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_and_live_through_epochs(images, workers):
    plan, fetch = Plan(100, 16, seed=2), Fetch(images, per_image(STEPS))
    alone, together = Host.of(plan, fetch, CPU, 0), Host.of(plan, fetch, CPU, workers)
    for epoch, start in ((0, 0), (1, 0), (1, 4), (2, 0)):
        pairs = zip(alone.epoch(epoch, start), together.epoch(epoch, start), strict=True)
        assert all(same(a, b) for a, b in pairs)


def test_workers_leave_the_global_generators_alone(images):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(Host.of(Plan(100, 50), Fetch(images), CPU, 1).epoch(0))
    assert torch.equal(torch.rand(3), expected)


@settings(deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 5), st.integers(0, 6))
def test_any_step_can_be_the_first(seed, epoch, start):
    images = Images(np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1), np.arange(100), np.zeros(100, dtype=np.int64))
    batches = feed(Plan(100, 16, seed), images, CPU)
    whole = list(batches.epoch(epoch))
    assert all(same(a, b) for a, b in zip(whole[start:], batches.epoch(epoch, start), strict=True))


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 4), st.booleans())
def test_ranks_share_every_batch_without_overlap(count, share, ranks, shuffled):
    share *= 2
    size = share * ranks
    if shuffled and size > count:
        return
    whole = list(Plan(count, size, shuffled=shuffled).spans())
    parts = [list(Plan(count, size, shuffled=shuffled, rank=rank, ranks=ranks).spans()) for rank in range(ranks)]
    for step, (first, end) in enumerate(whole):
        pieces = [range(*part[step]) for part in parts if step < len(part)]
        assert [i for piece in pieces for i in piece] == list(range(first, end))
        if shuffled:
            assert {len(piece) for piece in pieces} == {share}


def test_epochs_differ_and_each_shows_an_image_at_most_once(images):
    batches = feed(Plan(100, 32), images, CPU)
    first, second = (torch.cat([batch.index for batch in batches.epoch(epoch)]).tolist() for epoch in (0, 1))
    assert first != second
    assert len(set(first)) == 96


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match="batch_size: 128 is more than the 100 training images"):
        Plan(100, 128)
