"""Splits: stratified, fixed by their own seed; statistics from exact sums."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import randomness
from core.common.errors import DataError
from core.launch import Launch
from core.loading.images import Images, Splits
from core.loading.normalize import mean_and_std
from core.loading.stratify import stratified
from core.training.assemble import load_splits
from experiments.tiny import EXPERIMENT


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.floats(0.05, 0.5), st.integers(0, 99))
def test_a_stratified_split_takes_its_share_of_each_class(labels, fraction, seed):
    targets = np.array(labels)
    held = stratified(targets, fraction, seed)
    for label in set(labels):
        members = (targets == label).sum()
        taken = held[targets == label].sum()
        assert abs(taken - fraction * members) <= 1
        assert members == 1 or 0 < taken < members


def test_the_split_depends_on_its_seed_alone():
    targets = np.arange(100) % 10
    assert np.array_equal(stratified(targets, 0.2, 1), stratified(targets, 0.2, 1))
    assert not np.array_equal(stratified(targets, 0.2, 1), stratified(targets, 0.2, 2))


def test_mean_and_std_equal_numpys():
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 4, 5, 3), dtype=np.uint8)
    images = Images(pixels, np.arange(0, 3000, 2), np.zeros(1500, dtype=np.int64))
    mean, std = mean_and_std(images)
    scaled = pixels[::2].astype(np.float64) / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), rtol=1e-9)


def test_a_constant_channel_has_no_zero_deviation():
    images = Images(np.zeros((4, 2, 2, 1), dtype=np.uint8), np.arange(4), np.zeros(4, dtype=np.int64))
    assert mean_and_std(images)[1][0] > 0


@pytest.mark.parametrize("n", [1, 30, 1000])
def test_a_limit_holds_for_each_split_and_keeps_the_rest_together(n):
    images = Images(np.zeros((100, 1, 1, 1), dtype=np.uint8), np.arange(100), np.arange(100) % 10)
    splits = Splits("x", tuple("abcdefghij"), images, images, images, "d", "s").limited(n)
    for split in (splits.train, splits.val, splits.test):
        assert len(split) == min(n, 100)
        assert np.array_equal(split.targets, split.rows % 10)


def test_a_memory_map_travels_to_a_worker_by_name(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    images = Images(np.load(tmp_path / "pixels.npy", mmap_mode="r"), np.arange(5), np.zeros(5, dtype=np.int64))
    packed = pickle.dumps(images)
    assert len(packed) < 10_000
    assert np.array_equal(pickle.loads(packed).pixels, pixels)


@pytest.mark.parametrize("label", [-1, 2, 10])
def test_a_label_that_names_no_class_is_refused_with_its_place(label):
    def images(targets):
        return Images(np.zeros((4, 2, 2, 3), np.uint8), np.arange(4), np.array(targets))

    good = images([0, 1, 0, 1])
    with pytest.raises(DataError, match=rf"mine, val: 1 of 4 labels are outside 0 \.\. 1: image 2 has {label};"):
        Splits("mine", ("a", "b"), good, images([0, 1, label, 1]), good, "digest", "here")


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 80))
def test_a_limit_keeps_at_least_one_image_of_each_class(labels, n):
    images = Images(np.zeros((len(labels), 2, 2, 1), np.uint8), np.arange(len(labels)), np.array(labels))
    some = Splits("x", tuple("abcdefghij"), images, images, images, "d", "s").limited(n).train
    assert len(some) == min(n, len(labels))
    if n >= len(set(labels)):
        assert set(some.targets) == set(labels)
    random = np.sort(randomness.permutation(0, 0, len(labels))[:n])
    if set(np.array(labels)[random]) == set(labels):  # where a random choice has all classes, it is the choice
        assert np.array_equal(some.rows, random)


def test_a_limit_below_the_number_of_classes_is_refused():
    declared = EXPERIMENT.but({"limit": 6})
    with pytest.raises(DataError, match="limit: 6 images are fewer than the 10 classes; use --limit 10 or more"):
        load_splits(declared, Launch())
    assert len(load_splits(declared, Launch(overfit=6)).train) == 6
