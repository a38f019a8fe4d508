"""Sampling, label noise and long tails: against the papers' formulas, and functions of seeds alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from core import randomness as K
from core.common.errors import UserError
from core.loading.batches import Plan
from core.loading.images import Images
from core.loading.loader import feed
from core.loading.sampling import ClassBalanced, ClassWeighted, ImageWeighted, LabelNoise, LongTail, Sampling, Weighted
from tests.support.loop import BASE, built, digest, run

CPU = torch.device("cpu")


def images_of(*counts, seed=0):
    targets = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    pixels = np.zeros((len(targets), 2, 2, 1), dtype=np.uint8)
    return Images(pixels, np.arange(len(targets)), targets, weights=1.0 + np.arange(len(targets)) % 3)


def counts_in(images, order, classes):
    return np.bincount(images.targets[order], minlength=classes)


# ---- long tails


@pytest.mark.parametrize("factor", [1, 10, 50, 100, 200])
def test_a_long_tail_has_the_papers_class_sizes(factor):
    """CIFAR's classes of 5,000 under n * mu^i, as tabled for long-tailed CIFAR-10 at factor 100."""
    images = images_of(*[5000] * 10)
    tailed = LongTail(factor=factor)(images, 10)
    mu = (1 / factor) ** (1 / 9)
    assert tailed.counts(10) == tuple(int(5000 * mu**i + 1e-6) for i in range(10))
    if factor == 100:
        assert tailed.counts(10) == (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)


def test_a_longer_tail_is_within_a_shorter_and_no_class_is_lost():
    images = images_of(30, 30, 30, 2)
    short, long = (set(LongTail(factor=f)(images, 4).rows.tolist()) for f in (5, 50))
    assert long < short
    assert LongTail(factor=1000)(images, 4).counts(4)[3] == 1
    other = set(LongTail(factor=5, seed=1)(images, 4).rows.tolist())
    assert other != short
    assert len(other) == len(short)


# ---- label noise


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.4, 1.0])
def test_noise_changes_that_share_of_the_labels_to_the_others_equally(fraction):
    images = images_of(*[4000] * 5)
    noisy = LabelNoise(fraction=fraction)(images, 5).targets
    wrong = noisy != images.targets
    assert stats.binomtest(int(wrong.sum()), len(wrong), fraction).pvalue > 1e-4
    if fraction:
        shift = (noisy - images.targets)[wrong] % 5
        assert stats.chisquare(np.bincount(shift, minlength=5)[1:]).pvalue > 1e-4
    assert noisy.min() >= 0
    assert noisy.max() <= 4


def test_noise_is_of_the_image_whatever_stands_beside_it():
    images = images_of(50, 50)
    whole = LabelNoise(fraction=0.4)(images, 2)
    some = LabelNoise(fraction=0.4)(images.take(np.arange(30, 60)), 2)
    assert np.array_equal(whole.targets[30:60], some.targets)
    less = LabelNoise(fraction=0.2)(images, 2).targets != images.targets
    assert (whole.targets != images.targets)[less].all()
    assert (LabelNoise(fraction=0.4, seed=1)(images, 2).targets != whole.targets).any()


def test_noise_and_tail_are_of_the_training_set_alone_and_not_of_the_runs_seed():
    changes = {"label_noise.fraction": 0.5, "long_tail.factor": 4}
    plain, noisy, other = built(), built(changes), built(changes | {"seed": 5})
    assert noisy.train.plan.count < plain.train.plan.count
    assert noisy.context.train_size == sum(noisy.context.class_counts) == noisy.train.plan.count
    assert torch.equal(noisy.train.targets, other.train.targets)
    assert torch.equal(plain.val.targets, noisy.val.targets)
    assert BASE.but(changes).flat()["label_noise.fraction"] == 0.5  # so it is recorded as a param


# ---- sampling


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0])
def test_classes_are_drawn_by_the_papers_probabilities_and_images_within_equally(q):
    images = images_of(1000, 100, 10)
    order = ClassWeighted(q=q).over(images, 3, 32)
    drawn = np.concatenate([order(0, epoch) for epoch in range(20)])
    sizes = np.array([1000, 100, 10]) ** q
    assert stats.chisquare(counts_in(images, drawn, 3), sizes / sizes.sum() * len(drawn)).pvalue > 1e-4
    rare = np.bincount(drawn, minlength=1110)[images.targets == 2]
    assert stats.chisquare(rare).pvalue > 1e-4


def test_declared_weights_are_relative_and_zero_never_comes():
    images = images_of(100, 100, 100)
    drawn = np.concatenate([Weighted(weights=(1, 3, 0)).over(images, 3, 10)(1, epoch) for epoch in range(20)])
    found = counts_in(images, drawn, 3)
    assert found[2] == 0
    assert stats.chisquare(found[:2], np.array([1, 3]) / 4 * len(drawn)).pvalue > 1e-4


def test_images_are_drawn_by_their_weights_as_torchs_sampler_draws_them():
    weights = np.array([0, 1, 2.5, 0, 4, 1e-3, 0])
    images = replace(images_of(4, 3), weights=weights)
    drawn = np.concatenate([ImageWeighted().over(images, 2, 7)(1, epoch) for epoch in range(3000)])
    theirs = list(torch.utils.data.WeightedRandomSampler(weights, len(drawn), generator=torch.manual_seed(0)))
    ours, others = (np.bincount(one, minlength=7) for one in (drawn, theirs))
    assert not ours[weights == 0].any()
    assert stats.chisquare(ours[weights > 0], weights[weights > 0] / weights.sum() * len(drawn)).pvalue > 1e-4
    assert stats.chi2_contingency([ours[weights > 0], others[weights > 0]]).pvalue > 1e-4


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, "ImageWeighted needs a weight for each image; set data.weight_column"),
        (np.zeros(40), "non-negative, with a positive sum"),
        (np.full(40, -1.0), "non-negative, with a positive sum"),
        (np.where(np.arange(40) < 3, np.nan, 1.0), "3 of 40 training images have no weight"),
    ],
)
def test_images_without_usable_weights_are_refused(weights, message):
    images = replace(images_of(20, 20), weights=weights)
    with pytest.raises(ValueError, match=message):
        ImageWeighted().over(images, 2, 8)


@pytest.mark.parametrize("size", [6, 8, 32, 60])
def test_balanced_batches_hold_each_class_equally_often(size):
    images = images_of(200, 30, 10, 5)
    plan = Plan(245, size, 0, drawn=ClassBalanced().over(images, 4, size))
    order = plan.order(3)
    assert len(order) == 245
    for first, end in plan.spans():
        found = counts_in(images, order[first:end], 4)
        assert found.max() - found.min() <= 1
    used = len(plan) * size
    overall = counts_in(images, order[:used], 4)
    assert overall.max() - overall.min() <= 1  # the rest of the division goes round


def test_images_of_a_balanced_class_all_come_before_one_comes_again():
    images = images_of(200, 30, 10, 5)
    order = ClassBalanced().over(images, 4, 49)(0, 0)  # 5 batches of 49: no batch is cut
    for label in range(4):
        times = np.bincount(order, minlength=245)[images.targets == label]
        assert times.max() - times.min() <= 1


def test_neighbors_in_a_balanced_batch_are_of_any_class():
    images = images_of(100, 100)
    order = ClassBalanced().over(images, 2, 20)(0, 0)
    same = images.targets[order][0::2] == images.targets[order][1::2]
    assert 20 < same.sum() < 80


@pytest.mark.parametrize(
    "part", [ClassWeighted(), Weighted(weights=(1, 2, 0, 4)), ClassBalanced(), ImageWeighted()], ids=lambda p: p.label()
)
class TestEverySampling:
    def test_an_order_is_a_function_of_seed_and_epoch(self, part):
        order = part.over(images_of(9, 8, 7, 6), 4, 8)
        assert np.array_equal(order(3, 2), order(3, 2))
        assert not np.array_equal(order(3, 2), order(3, 1))
        assert not np.array_equal(order(3, 2), order(4, 2))
        assert order(3, 2).dtype == np.int64
        assert len(order(3, 2)) == 30

    def test_loaders_give_the_same_batches(self, part):
        images = images_of(9, 8, 7, 6)
        plan = Plan(30, 8, 0, drawn=part.over(images, 4, 8))
        resident = feed(plan, images, CPU)
        hosted = feed(plan, images, CPU, resident=False, workers=0)
        for start in (0, 2):
            for one, other in zip(resident.epoch(1, start), hosted.epoch(1, start), strict=True):
                assert all(map(torch.equal, one, other))
        assert [b.index.tolist() for b in resident.epoch(1, 2)] == [b.index.tolist() for b in resident.epoch(1)][2:]

    def test_a_run_left_and_taken_up_ends_in_the_same_bits(self, part):
        changes = {"sampling": part}
        whole, first, second = built(changes), built(changes), built(changes)
        run(whole)
        from core.training.loop import fit

        for event in fit(first.setup, first.state, first.train, first.val):
            if event.step == 7:
                break
        second.state.restore(first.state.snapshot())
        run(second)
        assert digest(second.state) == digest(whole.state)

    def test_it_reads_back(self, part):
        assert Sampling.read(part.record()) == part


def test_an_image_that_comes_again_is_augmented_anew():
    index = np.array([4, 2, 4, 4, 2, 7])
    keys = K.sample_keys(0, 0, index)
    apart = K.distinct(keys, index)
    assert len(set(apart.tolist())) == 6
    assert np.array_equal(apart[[0, 1, 5]], keys[[0, 1, 5]])  # the first time with the key that it always has
    assert np.array_equal(K.distinct(keys[:2], index[:2]), keys[:2])
    images = images_of(30, 2)
    plan = Plan(32, 8, 0, drawn=ClassBalanced().over(images, 2, 8))
    for batches in (feed(plan, images, CPU), feed(plan, images, CPU, resident=False, workers=0)):
        assert len({key for batch in batches.epoch(0) for key in batch.keys.tolist()}) == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": Weighted(weights=(1, 2))}, "2 weights for 4 classes"),
        ({"sampling": Weighted(weights=(1, 2, 3, 4)), "limit": 3}, "has a weight but no training images"),
    ],
    ids=["too_few", "absent"],
)
def test_weights_that_do_not_fit_are_refused(changes, message):
    from core.launch import Launch
    from core.training.assemble import assemble

    experiment = BASE.but(changes | {"batch_size": 2})
    splits = experiment.data.load()
    splits = splits.limited(experiment.limit) if experiment.limit else splits
    with pytest.raises(UserError, match=message):
        assemble(experiment, splits, Launch(device="cpu"))


@pytest.mark.parametrize("factor", [1, 3.5, 100])
def test_a_smoke_run_has_three_batches_left_of_a_long_tail(factor):
    from core.launch import Launch
    from core.training.assemble import assemble
    from core.training.smoke import smoked
    from experiments.tiny import EXPERIMENT

    experiment = smoked(EXPERIMENT.but({"long_tail.factor": factor, "batch_size": 8}))
    splits = experiment.data.load(None).limited(experiment.limit)
    assert len(assemble(experiment, splits, Launch(device="cpu")).train.plan) >= 3


@pytest.mark.parametrize("weights", [(), (0, 0), (1, -1), (1e308, 1e308)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        Weighted(weights=weights).check()


@pytest.mark.parametrize("part", [LongTail(), LabelNoise()])
def test_images_of_several_classes_each_are_refused(part):
    images = images_of(3, 3)
    several = Images(images.pixels, images.rows, np.zeros((6, 2), dtype=np.float32))
    with pytest.raises(ValueError, match="supports only single-label images"):
        part(several, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"long_tail.factor": 0.5},
        {"label_noise.fraction": 1.1},
        {"sampling": "ClassWeighted", "sampling.q": 2},
        {"sampling": "Balanced"},
    ],
    ids=str,
)
def test_fields_refuse_bad_values(changes):
    with pytest.raises(UserError):
        BASE.but(changes)
