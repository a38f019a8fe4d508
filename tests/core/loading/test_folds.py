"""Folds: partitions that keep groups together, are stratified, and depend on content alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.common.errors import DataError
from core.launch import Launch
from core.loading.folds import Fold, Folds, partition
from core.loading.images import Images, Splits
from core.training.assemble import check, load_splits, studied
from experiments.tiny import EXPERIMENT

CLASSES = ("a", "b", "c")


def images(targets, groups=None, rows=None):
    """Images that all differ: their first bytes count them."""
    count = len(targets)
    pixels = np.zeros((count, 2, 2, 1), np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 1, 0] = np.arange(count) % 256, np.arange(count) // 256
    named = None if groups is None else np.array([f"g{group}" for group in groups])
    rows = np.arange(count) if rows is None else rows
    return Images(pixels, rows, np.array(targets)[rows], None, None if named is None else named[rows])


@settings(max_examples=60)
@given(st.data())
def test_every_image_is_in_one_fold_stratified_and_in_any_order(data):
    folds = data.draw(st.integers(2, 6))
    each = st.integers(folds, 30)
    counts = [data.draw(each), data.draw(each), data.draw(each)]
    targets = np.repeat(np.arange(3), counts)
    rows = np.array(data.draw(st.permutations(range(len(targets)))))
    repeat = data.draw(st.integers(1, 3))
    found = partition(images(targets), CLASSES, folds, repeat)
    again = partition(images(targets, rows=rows), CLASSES, folds, repeat)
    assert np.array_equal(found[rows], again)
    assert set(found.tolist()) == set(range(folds))
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 1
    for label in range(3):
        of_class = np.bincount(found[targets == label], minlength=folds)
        assert of_class.max() - of_class.min() <= 1


@settings(max_examples=60)
@given(st.data())
def test_groups_are_never_divided_in_any_order(data):
    groups = np.array(data.draw(st.lists(st.integers(0, 11), min_size=60, max_size=150)))
    targets = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(groups), max_size=len(groups))))
    rows = np.array(data.draw(st.permutations(range(len(targets)))))
    try:
        found = partition(images(targets, groups), CLASSES, 3, 1)
    except DataError:  # a class is in one group
        return
    assert np.array_equal(found[rows], partition(images(targets, groups, rows), CLASSES, 3, 1))
    assert all(len(set(found[groups == group])) == 1 for group in groups)
    assert set(found.tolist()) == {0, 1, 2}


def test_groups_of_one_class_are_dealt_as_evenly_as_scikit_learn_does():
    from sklearn.model_selection import StratifiedGroupKFold

    random = np.random.default_rng(0)
    groups = np.sort(random.integers(0, 60, 600))
    targets = (groups * 7 % 3 + (random.random(600) < 0.1)) % 3
    pool = images(targets, groups)

    def uneven(fold):
        counts = np.array([np.bincount(targets[fold == number], minlength=3) for number in range(5)])
        return counts.std(axis=0).max()

    theirs = np.empty(600, int)
    for number, (_, held) in enumerate(StratifiedGroupKFold(5).split(targets, targets, groups)):
        theirs[held] = number
    assert uneven(partition(pool, CLASSES, 5, 1)) <= 1.5 * uneven(theirs)


def test_several_labels_are_stratified():
    random = np.random.default_rng(1)
    has = (random.random((400, 3)) < (0.5, 0.2, 0.05)).astype(np.float32)
    pool = images(np.zeros(400, np.int64))
    found = partition(Images(pool.pixels, pool.rows, has), CLASSES, 4, 1)
    counts = np.array([has[found == number].sum(axis=0) for number in range(4)])
    assert (counts.max(axis=0) - counts.min(axis=0) <= 2).all()
    assert (np.bincount(found) == 100).all()


def test_identical_images_are_in_the_same_fold_and_repetitions_differ():
    pool = images([0, 1] * 50)
    pool.pixels[50:] = pool.pixels[:50]
    found = [partition(pool, CLASSES[:2], 5, repeat) for repeat in (1, 2)]
    assert all(np.array_equal(fold[:50], fold[50:]) for fold in found)
    assert not np.array_equal(*found)


def test_a_fold_is_the_val_split_and_the_rest_are_trained_on():
    whole = load_splits(EXPERIMENT, Launch())
    seen = []
    for fold in Folds(4):
        splits = load_splits(EXPERIMENT.but({"fold": fold}), Launch())
        assert len(splits.train) + len(splits.val) == len(whole.train) + len(whole.val)
        assert not set(splits.train.rows.tolist()) & set(splits.val.rows.tolist())
        assert np.array_equal(splits.test.rows, whole.test.rows)
        seen += splits.val.rows.tolist()
    assert sorted(seen) == sorted([*whole.train.rows.tolist(), *whole.val.rows.tolist()])
    other = EXPERIMENT.but({"fold": fold, "data.val_fraction": 0.3, "data.split_seed": 7})
    assert np.array_equal(load_splits(other, Launch()).val.rows, splits.val.rows)


def test_studies_of_the_training_split_leave_a_fold_as_it_is():
    experiment = EXPERIMENT.but({"fold": Fold(), "long_tail": "LongTail", "label_noise": "LabelNoise"})
    splits = load_splits(experiment, Launch())
    changed = studied(experiment, splits)
    assert np.array_equal(changed.val.targets, splits.val.targets)
    assert len(changed.train) < len(splits.train) / 2


def test_a_limit_holds_before_the_folds_are_made():
    splits = load_splits(EXPERIMENT.but({"fold": Fold(), "limit": 100}), Launch())
    assert (len(splits.train), len(splits.val)) == (160, 40)


@pytest.mark.parametrize(
    ("targets", "groups", "said"),
    [
        ([0, 0, 0, 1, 1, 1, 2, 2], None, "folds: c has 2 images for training and validation, fewer than 3 folds"),
        ([0, 1, 2] * 4, [0, 0, 0, 1, 1, 1] * 2, "folds: 3 folds of 2 groups; use at most 2"),
        ([0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 1, 2, 0, 1, 2, 3, 3, 3], "folds: all images of c are one group"),
    ],
    ids=["class", "groups", "one group"],
)
def test_too_few_images_or_groups_are_refused(targets, groups, said):
    with pytest.raises(DataError, match=said):
        partition(images(targets, groups), CLASSES, 3, 1)


def test_splits_that_are_stored_apart_are_refused():
    one, other = images([0, 1] * 5), images([0, 1] * 5)
    with pytest.raises(DataError, match="these splits are stored in separate arrays"):
        Fold(folds=2)(Splits("x", ("a", "b"), one, other, other, "d", "s"))


def test_a_fold_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="fold: number 6 is more than the 5 folds"):
        check(EXPERIMENT.but({"fold": Fold(number=6)}))


@pytest.mark.parametrize("text", ["1", "0", "x", "5x0", "5x", "1x4", "-5", "5 x 4", "٥"])
def test_other_text_is_no_number_of_folds(text):
    with pytest.raises(ValueError, match="should be the number of folds, at least 2"):
        Folds.read(text)


def test_folds_are_written_as_they_are_read():
    assert [str(Folds.read(text)) for text in ("5", "5x4", "5x1")] == ["5", "5x4", "5"]
    assert [(fold.repeat, fold.number) for fold in Folds(2, 2)] == [(1, 1), (1, 2), (2, 1), (2, 2)]
