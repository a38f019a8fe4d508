"""Ready augmentations: operations against torchvision's, steps on the device against one image at a time, views."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode, autoaugment

from core import randomness as K
from core.augment import (
    AlternatingFlip,
    AutoAugment,
    BatchStep,
    CoarseDropout,
    ColorJitter,
    Cutout,
    HorizontalFlip,
    ImageStep,
    RandAugment,
    RandomCrop,
    RandomErasing,
    Rotation,
    Translate,
    TrivialAugment,
    augmented,
    per_image,
)
from core.augment.base import resized
from core.augment.operations import LEVELS, OPERATIONS, POLICY_LEVELS, SIGNED, operate, strength
from core.augment.policies import POLICIES
from core.common.errors import UserError
from core.common.text import snake
from core.context import Clock, Context
from core.declare.tree import choices
from core.launch import Launch
from core.loading.batches import Batch, Plan
from core.loading.images import Images
from core.loading.loader import Host, Resident, feed
from core.models.tta import averaged
from core.runs.train import train
from experiments.tiny import EXPERIMENT

COLOUR = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
GREY = COLOUR[:, :, :1].copy()
SETS = [RandAugment(), TrivialAugment(), AutoAugment(), ColorJitter(), Rotation(), CoarseDropout(size=3)]
CLASSES = 7


def context(seed=0):
    return Context(("a",) * CLASSES, (4,) * CLASSES, (12, 10, 3), 20, 2, 3, 10, torch.device("cpu"), seed=seed)


def batch_of(n=64, seed=0, epoch=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 3, 12, 10, generator=generator).to(memory_format=torch.channels_last)
    keys = torch.from_numpy(K.sample_keys(seed, epoch, np.arange(n)))
    return Batch(images, torch.arange(n) % CLASSES, keys, torch.arange(n))


# ---------------------------------------------------------------- operations and policies


def theirs(name):
    return next(
        n
        for n in ("Identity", "Invert", *autoaugment.RandAugment()._augmentation_space(31, (1, 1)))
        if snake(n) == name
    )


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("image", [COLOUR, GREY], ids=["color", "gray"])
@pytest.mark.parametrize("name", [*OPERATIONS, "invert"])
def test_operations_are_torchvisions(name, image, sign):
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    for level in (0.0, 0.3, 1.0):
        value = strength(name, level, image.shape, wide=True) * (sign if name in SIGNED else 1)
        expected = autoaugment._apply_op(picture, theirs(name), value, InterpolationMode.NEAREST, fill=None)
        got = operate(image, name, value)
        assert np.array_equal(got, np.asarray(expected).reshape(image.shape)), level
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous


@pytest.mark.parametrize(
    ("reference", "levels", "wide"),
    [
        (autoaugment.RandAugment()._augmentation_space(LEVELS, (24, 20)), LEVELS, False),
        (autoaugment.TrivialAugmentWide()._augmentation_space(LEVELS), LEVELS, True),
        (autoaugment.AutoAugment()._augmentation_space(POLICY_LEVELS, (24, 20)), POLICY_LEVELS, False),
    ],
    ids=["rand", "trivial", "auto"],
)
def test_strengths_are_torchvisions(reference, levels, wide):
    without = {"identity", "auto_contrast", "equalize", "invert"}
    assert {snake(name) for name in reference} - {"invert"} >= set(OPERATIONS) - {"identity"}
    for name, (values, signed) in reference.items():
        assert (snake(name) in SIGNED) is signed
        if snake(name) not in without:
            ours = [strength(snake(name), level / (levels - 1), (24, 20, 3), wide) for level in range(levels)]
            np.testing.assert_allclose(ours, values.numpy(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("policy", list(POLICIES))
def test_policies_are_torchvisions(policy):
    reference = autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy(policy)).policies
    expected = tuple(tuple((snake(name), p, level or 0) for name, p, level in pair) for pair in reference)
    assert POLICIES[policy] == expected


def test_rand_augment_draws_n_of_all_operations_evenly_and_both_signs():
    chance = random.Random(0)
    drawn = [RandAugment(num_ops=3, magnitude=30).draw((24, 20, 3), chance) for _ in range(3000)]
    counts = Counter(name for each in drawn for name, _ in each)
    assert {len(each) for each in drawn} == {3}
    assert counts.keys() == set(OPERATIONS)
    assert len(OPERATIONS) == 14
    assert max(counts.values()) < 1.25 * min(counts.values())
    rotations = Counter(value for each in drawn for name, value in each if name == "rotate")
    assert rotations.keys() == {30, -30}
    assert min(rotations.values()) > 250


def test_trivial_augment_draws_one_of_every_strength():
    chance = random.Random(0)
    drawn = [TrivialAugment().draw((24, 20, 3), chance) for _ in range(20000)]
    assert {len(each) for each in drawn} == {1}
    turns = {abs(value) for ((name, value),) in drawn if name == "rotate"}
    assert len(turns) == LEVELS
    assert max(turns) == 135


def test_auto_augment_follows_each_probability():
    chance = random.Random(0)
    drawn = [tuple(name for name, _ in AutoAugment().draw((24, 20, 3), chance)) for _ in range(20000)]
    # the only pairs of shear_y: (0.5, translate_y 0.7) and (0.2, posterize 0.3)
    assert drawn.count(("shear_y", "translate_y")) / 20000 == pytest.approx(0.5 * 0.7 / 25, rel=0.15)
    assert drawn.count(("posterize",)) / 20000 == pytest.approx(0.8 * 0.3 / 25, rel=0.2)


@pytest.mark.parametrize("image", [COLOUR, GREY], ids=["color", "gray"])
@pytest.mark.parametrize("step", SETS, ids=lambda step: step.label())
def test_sets_depend_on_the_key_alone_and_keep_size_and_type(step, image):
    keys = K.sample_keys(0, 0, np.arange(24)).tolist()
    first, second = per_image((step,)), per_image((step,))
    before = image.copy()
    forward = [first(image, key) for key in keys]
    backward = [second(image, key) for key in reversed(keys)][::-1]
    assert np.array_equal(forward, backward)
    assert np.array_equal(image, before)
    assert all(out.shape == image.shape and out.dtype == np.uint8 for out in forward)
    assert len({out.tobytes() for out in forward}) > 8


def test_sets_are_the_same_from_loader_workers():
    pixels = np.random.default_rng(1).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    images = Images(pixels, np.arange(12), np.zeros(12, dtype=np.int64))
    steps, plan = (RandAugment(), TrivialAugment(), CoarseDropout(size=3)), Plan(12, 4, seed=1)
    here, there = (feed(plan, images, torch.device("cpu"), per_image(steps), workers) for workers in (0, 2))
    for one, other in zip(here.epoch(0), there.epoch(0), strict=True):
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            ColorJitter(brightness=0.4, contrast=0.3, saturation=0.1, hue=0.05, p=0.9),
            {
                "brightness": (0.6, 1.4),
                "contrast": (0.7, 1.3),
                "saturation": (0.9, 1.1),
                "hue": (-0.05, 0.05),
                "p": 0.9,
            },
        ),
        (Rotation(degrees=30, p=0.8, fill=7), {"limit": (-30, 30), "fill": 7, "p": 0.8}),
        (
            CoarseDropout(holes=2, size=5, p=0.7, fill=9),
            {"num_holes_range": (2, 2), "hole_height_range": (5, 5), "hole_width_range": (5, 5), "fill": 9, "p": 0.7},
        ),
    ],
    ids=["jitter", "rotation", "dropout"],
)
def test_ready_sets_are_albumentations_with_these_ranges(step, expected):
    transform = step.transform()
    assert type(transform).__module__.startswith("albumentations.")
    for name, value in expected.items():
        assert getattr(transform, name) == pytest.approx(value), name


@pytest.mark.parametrize(
    "step", [RandAugment(num_ops=3, magnitude=20, fill=40), AutoAugment(policy="svhn", fill=40)], ids=str
)
def test_what_is_drawn_acts_in_its_order_as_torchvisions_operations_do(step):
    filled = 0
    for seed in range(30):
        picture = Image.fromarray(COLOUR)
        for name, value in step.draw(COLOUR.shape, random.Random(seed)):
            filled += name.startswith(("translate", "shear", "rotate"))
            picture = autoaugment._apply_op(picture, theirs(name), value, InterpolationMode.NEAREST, fill=[40] * 3)
        assert np.array_equal(step.act(COLOUR, random.Random(seed)), np.asarray(picture)), seed
    assert filled > 5


def test_other_channels_are_reported():
    with pytest.raises(ValueError, match="1 or 3 channels, not 4"):
        per_image((TrivialAugment(),))(np.zeros((8, 8, 4), dtype=np.uint8), 3)


def test_coarse_dropout_makes_so_many_squares():
    out = per_image((CoarseDropout(holes=1, size=4, fill=7),))(np.full((16, 16, 3), 200, dtype=np.uint8), 5)
    assert (out == 7).all(axis=2).sum() == 16
    assert ((out == 7) | (out == 200)).all()


# ---------------------------------------------------------------- on the device


ON_DEVICE = [
    Translate(fraction=0.2),
    Cutout(size=4),
    RandomErasing(p=1.0),
    RandomErasing(p=0.5, fill="noise"),
    AlternatingFlip(),
]


@pytest.mark.parametrize("step", ON_DEVICE, ids=str)
def test_steps_depend_on_key_and_index_alone_and_leave_the_batch_as_it_was(step):
    batch, built = batch_of(), step.build(context())
    before = batch.images.clone()
    whole = built.apply(batch, CLASSES, Clock(3, 1, 4))
    some = built.apply(Batch(*(tensor[5:9] for tensor in batch)), CLASSES, Clock(3, 1, 4))
    assert torch.equal(whole.images[5:9], some.images)
    assert torch.equal(batch.images, before)
    assert not torch.equal(whole.images, before)
    assert whole.targets is batch.targets
    assert whole.images.shape == before.shape
    assert whole.images.is_contiguous(memory_format=torch.channels_last)


SIDE = st.integers(1, 40)


@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from([1, 3, 4]), st.integers(0, 2**32 - 1))
def test_a_crop_is_resized_as_by_pillow_within_a_gray_level(tall, wide, height, width, channels, seed):
    stored = np.random.default_rng(seed).integers(0, 256, (tall + 3, wide + 2, channels), np.uint8)
    stored.setflags(write=False)  # as a memory map
    part = stored[1 : tall + 1, 2:]
    planes = [Image.fromarray(np.ascontiguousarray(part[..., channel])) for channel in range(channels)]
    theirs = np.stack([plane.resize((width, height), Image.Resampling.BILINEAR) for plane in planes], axis=2)
    ours = resized(part, height, width)
    assert (ours.shape, ours.dtype, ours.flags["C_CONTIGUOUS"]) == (theirs.shape, theirs.dtype, True)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_translate_equals_moving_each_image_on_its_own():
    batch = batch_of()
    moved, _ = Translate(fraction=0.2)(batch.images, batch.targets, batch.keys, CLASSES)
    down, right = K.integers(batch.keys, "translate down", 5) - 2, K.integers(batch.keys, "translate right", 5) - 2
    assert set(down.tolist()) == set(right.tolist()) == {-2, -1, 0, 1, 2}
    for i, image in enumerate(batch.images):
        dy, dx = int(down[i]), int(right[i])
        for y in range(12):
            for x in range(10):
                inside = 0 <= y - dy < 12 and 0 <= x - dx < 10
                expected = image[:, y - dy, x - dx] if inside else torch.zeros(3)
                assert torch.equal(moved[i, :, y, x], expected)


def test_a_move_of_less_than_a_pixel_is_none():
    batch = batch_of()
    assert torch.equal(Translate(fraction=0.05)(batch.images, batch.targets, batch.keys, CLASSES)[0], batch.images)


def test_crop_is_unchanged_by_sharing_its_window():
    """The bits of RandomCrop, as they were when its code stood alone."""
    batch = batch_of(4)
    cropped, _ = RandomCrop(padding=2)(batch.images, batch.targets, batch.keys, CLASSES)
    down, right = K.integers(batch.keys, "crop down", 5), K.integers(batch.keys, "crop right", 5)
    padded = nn.functional.pad(batch.images, (2, 2, 2, 2))
    for i in range(4):
        assert torch.equal(cropped[i], padded[i, :, down[i] : down[i] + 12, right[i] : right[i] + 10])


@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_erasing_fills_one_rectangle_of_the_stated_area(fill):
    images = torch.full((4000, 3, 32, 32), 9.0)
    keys = torch.from_numpy(K.sample_keys(0, 0, np.arange(4000)))
    step = RandomErasing(p=0.5, scale=(0.1, 0.3), ratio=(0.5, 2.0), fill=fill)
    out, _ = step(images, torch.zeros(4000), keys, CLASSES)
    erased = (out != 9).all(dim=1)
    chosen = erased.flatten(1).any(dim=1)
    assert float(chosen.float().mean()) == pytest.approx(0.5, abs=0.03)
    area = erased[chosen].float().mean(dim=(1, 2))
    assert 0.1 - 0.02 < area.min() < 0.11
    assert 0.29 < area.max() < 0.3 + 0.02
    assert float(area.mean()) == pytest.approx(0.2, abs=0.01)
    tall, wide = erased[chosen].any(dim=2).sum(dim=1), erased[chosen].any(dim=1).sum(dim=1)
    assert torch.equal(tall * wide, erased[chosen].sum(dim=(1, 2)))
    assert 0.4 < (tall / wide).min() < 0.6
    assert 1.7 < (tall / wide).max() < 2.5
    assert abs(int((tall > wide).sum()) - int((tall < wide).sum())) < 0.06 * len(tall)
    for edge in (erased[:, 0], erased[:, -1], erased[:, :, 0], erased[:, :, -1]):
        assert edge.any()
    filled = out[erased[:, None].expand_as(out)]
    if fill == "mean":
        assert (filled == 0).all()
    else:
        assert float(filled.mean()) == pytest.approx(0, abs=0.01)
        assert float(filled.std()) == pytest.approx(1, abs=0.01)
        assert len(filled.unique()) > 0.9 * min(len(filled), 2**24 / 4)


# ---------------------------------------------------------------- the alternating flip


def flips(seed, epoch, n=400):
    batch = batch_of(n, seed, epoch)
    out = AlternatingFlip().build(context(seed)).apply(batch, CLASSES, Clock(epoch, 1, epoch + 1)).images
    mirrored = (out == batch.images.flip(3)).flatten(1).all(dim=1)
    assert (mirrored | (out == batch.images).flatten(1).all(dim=1)).all()
    return mirrored


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_alternating_flip_turns_every_image_over_from_epoch_to_epoch(seed):
    first = flips(seed, 0)
    assert 150 < int(first.sum()) < 250
    for epoch in range(1, 8):
        assert torch.equal(flips(seed, epoch), first ^ bool(epoch % 2))


def test_alternating_flip_differs_between_seeds():
    one, other = flips(0, 0), flips(1, 0)
    assert 0.4 < (one == other).float().mean() < 0.6
    assert torch.equal(flips(3, 2), flips(3, 2))


# written down when the epoch was still recovered from the keys: a run of then that is resumed sees the same images
PLACES = [0, 1, 2, 3, 7, 100, 4_000_000, 12_345_678, 49_999, 50_000, 11, 12]
TURNED = {
    (0, 0): "110100011010",
    (0, 1): "001011100101",
    (0, 299): "001011100101",
    (4, 0): "001011100000",
    (4, 2): "001011100000",
    (2**63 - 1, 0): "010100011001",
    (2**63 - 1, 299): "101011100110",
}


@pytest.mark.parametrize(("seed", "epoch"), TURNED)
def test_alternating_flip_mirrors_the_images_that_it_always_did(seed, epoch):
    assert turned(seed, epoch, np.array(PLACES)).tolist() == [bit == "1" for bit in TURNED[seed, epoch]]


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.integers(0, 10**7))
def test_each_image_is_seen_from_both_sides_in_two_epochs(seed, epoch, first):
    places = np.arange(first, first + 5)
    one, two, three = (turned(seed, epoch + i, places) for i in range(3))
    assert torch.equal(one, ~two)
    assert torch.equal(one, three)


def test_what_comes_again_in_an_epoch_is_mirrored_at_random():
    """As sampling makes it; by a coin of its own key, so not as it was the first time."""
    places = np.repeat(np.arange(300), 2)
    keys = K.distinct(K.sample_keys(0, 5, places), places)
    found = turned(0, 5, places, keys)
    assert torch.equal(found[::2], turned(0, 5, places[::2]))
    assert 100 < int((found[::2] == found[1::2]).sum()) < 200


def turned(seed, epoch, index, keys=None):
    """bool [N], which of the images at these positions the step mirrors."""
    images = torch.arange(2.0).expand(len(index), 1, 1, 2).to(memory_format=torch.channels_last)
    keys = torch.from_numpy(K.sample_keys(seed, epoch, index) if keys is None else keys)
    batch = Batch(images, torch.zeros(len(index), dtype=torch.int64), keys, torch.from_numpy(index))
    step = AlternatingFlip().build(context(seed))
    return step.apply(batch, CLASSES, Clock(10 * epoch + 9, 10, epoch + 1)).images[:, 0, 0, 0].bool()


def test_alternating_flip_is_the_same_however_batches_come():
    pixels = np.random.default_rng(1).integers(0, 256, (12, 4, 4, 1), dtype=np.uint8)
    images, plan, cpu = (
        Images(pixels, np.arange(12), np.zeros(12, dtype=np.int64)),
        Plan(12, 4, seed=5),
        torch.device("cpu"),
    )
    resident, host = feed(plan, images, cpu), feed(plan, images, cpu, workers=1)
    assert isinstance(resident, Resident)
    assert isinstance(host, Host)
    steps, clock = (AlternatingFlip().build(context(5)),), Clock(10, 3, 4)
    for one, other in zip(resident.epoch(3, 1), host.epoch(3, 1), strict=True):
        batches = (b._replace(images=b.images.permute(0, 3, 1, 2)) for b in (one, other))
        seen = [augmented(steps, CLASSES, batch, clock).images for batch in batches]
        assert torch.equal(*seen)


def test_a_run_builds_its_steps_with_the_runs_seed():
    from core.training.assemble import assemble
    from data import Digits

    for seed in (0, 4):
        experiment = EXPERIMENT.but({"augment": (AlternatingFlip(),), "seed": seed, "limit": 64})
        parts = assemble(experiment, Digits().load(None).limited(64), Launch(device="cpu"))
        ready = parts.setup.normalize(next(iter(parts.train.epoch(0))))
        turns = K.alternating(seed, "alternating flip", 0, ready.index).bool()
        got = parts.setup.augment(ready, Clock(0, 1, 1)).images
        assert torch.equal(got, torch.where(turns[:, None, None, None], ready.images.flip(3), ready.images))


# ---------------------------------------------------------------- declared


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (RandAugment, {"magnitude": 31}),
        (RandAugment, {"num_ops": 0}),
        (TrivialAugment, {"fill": 256}),
        (AutoAugment, {"policy": "cifar100"}),
        (ColorJitter, {"hue": 0.6}),
        (Rotation, {"degrees": 0}),
        (CoarseDropout, {"holes": 0}),
        (Translate, {"fraction": 1.0}),
        (RandomErasing, {"scale": (0.02, 1.5)}),
        (RandomErasing, {"fill": "black"}),
    ],
    ids=str,
)
def test_fields_refuse_bad_values(kind, fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        kind.read(fields)


def test_a_smallest_area_above_the_largest_is_refused():
    with pytest.raises(UserError, match=r"scale: .*min <= max"):
        RandomErasing.read({"scale": (0.5, 0.4)})


@pytest.mark.parametrize("base", [ImageStep, BatchStep])
def test_every_step_is_explained_and_reads_back(base):
    for kind in choices(base).values():
        if kind.__module__.startswith("core.") and kind.__name__ != "Albumentation":
            assert all(field.description for field in kind.model_fields.values()), kind
            assert kind.read(kind().record()) == kind()


# ---------------------------------------------------------------- views of a test image


class Asymmetric(nn.Module):
    """Logits that depend on the left column and the top row."""

    def forward(self, images):
        return torch.stack([images[:, 0, :, 0].sum(1), images[:, 0, 0].sum(1), images.mean((1, 2, 3))], dim=1)


def test_views_average_probabilities():
    model, images = Asymmetric(), batch_of(8).images
    assert averaged(model, "none") is model
    p, q = model(images).softmax(1), model(images.flip(3)).softmax(1)
    torch.testing.assert_close(averaged(model, "flip")(images).exp(), (p + q) / 2)
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    moved = [images, padded[:, :, 2:, 2:], padded[:, :, :-2, :-2]]
    expected = sum(model(view).softmax(1) + model(view.flip(3)).softmax(1) for view in moved) / 6
    got = averaged(model, "flip_shift")(images)
    torch.testing.assert_close(got.exp(), expected)
    torch.testing.assert_close(got.exp().sum(1), torch.ones(8))
    assert torch.equal(got.argmax(1), expected.argmax(1))
    still, *others = [model(view).softmax(1) + model(view.flip(3)).softmax(1) for view in moved]
    half = averaged(model, "flip_shift_half")(images).exp()
    torch.testing.assert_close(half, still / 4 + sum(others) / 8)


def test_views_are_taken_at_the_test_alone():
    experiment = EXPERIMENT.but({"epochs": 2, "limit": 300, "augment": (HorizontalFlip(),)})
    offline = Launch(mlflow=False, threads=1)
    one, two = train(experiment, offline), train(experiment.but({"tta": "flip"}), offline)
    for name in ("train/loss", "val/loss", "val/accuracy"):
        assert one.history[name] == two.history[name]
    assert one.metrics["test/loss"] != two.metrics["test/loss"]
    from data import Digits

    test = Digits().load(None).limited(300).test
    images = test.pixels[test.rows]
    mean = (one.predict(images) + one.predict(np.ascontiguousarray(images[:, :, ::-1]))) / 2
    np.testing.assert_allclose(two.predict(images), mean, rtol=1e-4, atol=1e-6)
    expected = -np.log(mean)
    smooth = 0.9 * expected[np.arange(len(test)), test.targets] + 0.1 * expected.mean(axis=1)
    assert two.metrics["test/loss"] == pytest.approx(smooth.mean(), rel=1e-4)
    assert two.metrics["test/accuracy"] == pytest.approx((mean.argmax(1) == test.targets).mean())
