"""Faster implementations against the ones that they replaced, kept here: the same bits, in the same layout."""

import random

import albumentations
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from core import randomness as K
from core.augment import Albumentation, HorizontalFlip, RandAugment, RandomCrop, Rotation, Translate, per_image
from core.augment.geometry import BLOCK
from core.augment.image_steps import CoarseDropout
from core.loading.batches import Batch
from core.loading.images import Images
from core.loading.loader import Fetch, Request
from core.loading.normalize import normalizer

SIDES = st.integers(5, 40)


def cut(padded, down, right, height, width):
    """Each image cropped at its own offset, by indexing a view of all windows."""
    n, channels, tall, wide = padded.shape
    across, _, below, beside = padded.stride()
    windows = padded.as_strided(
        (n, tall - height + 1, wide - width + 1, height, width, channels),
        (across, below, beside, below, beside, padded.stride(1)),
    )
    return windows[torch.arange(n), down, right].permute(0, 3, 1, 2)


def cropped(images, keys, padding, mode):
    padded = F.pad(images, (padding,) * 4, mode=mode)
    down, right = (K.integers(keys, f"crop {way}", 2 * padding + 1) for way in ("down", "right"))
    return cut(padded, down, right, *images.shape[2:])


def translated(images, keys, fraction):
    height, width = images.shape[2:]
    tall, wide = int(fraction * height), int(fraction * width)
    down, right = K.integers(keys, "translate down", 2 * tall + 1), K.integers(keys, "translate right", 2 * wide + 1)
    return cut(F.pad(images, (wide, wide, tall, tall)), 2 * tall - down, 2 * wide - right, height, width)


def flipped(images, keys):
    return torch.where((K.uniform(keys, "horizontal flip") < 0.5)[:, None, None, None], images.flip(3), images)


def normalized(n, height, width, channels, seed):
    """A batch as training has it: channels last in memory. As many images as fill several blocks, if n is large."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=generator)
    keys = torch.from_numpy(K.sample_keys(seed, 0, np.arange(n)))
    normalize = normalizer((0.49,) * channels, (0.25,) * channels, torch.device("cpu"))
    return normalize(Batch(images, torch.zeros(n, dtype=torch.long), keys, keys))


def assert_same(made, expected):
    assert torch.equal(made, expected)
    assert made.stride() == expected.stride()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), SIDES, SIDES, st.sampled_from([1, 3, 4]), st.integers(1, 4), st.booleans())
def test_crop_and_flip_have_the_bits_of_padding_and_indexing(n, height, width, channels, padding, reflect):
    images, targets, keys, _ = normalized(n, height, width, channels, seed=n)
    mode = "reflect" if reflect else "constant"
    before = images.clone()
    assert_same(
        RandomCrop(padding=padding, reflect=reflect)(images, targets, keys, 2)[0], cropped(images, keys, padding, mode)
    )
    assert_same(HorizontalFlip()(images, targets, keys, 2)[0], flipped(images, keys))
    assert_same(Translate(fraction=0.2)(images, targets, keys, 2)[0], translated(images, keys, 0.2))
    assert torch.equal(images, before)


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_larger_than_a_block_and_other_types(n, dtype):
    images, targets, keys, _ = normalized(n, 210, 220, 3, n)
    images = images.to(dtype)
    assert images[:1].nbytes > BLOCK
    assert_same(RandomCrop(padding=5)(images, targets, keys, 2)[0], cropped(images, keys, 5, "constant"))
    assert_same(HorizontalFlip()(images, targets, keys, 2)[0], flipped(images, keys))


def composed(steps, image, key):
    """The image steps through albumentations.Compose."""
    philox, chance = np.random.Philox(0), random.Random(key)
    state = philox.state
    state["state"]["counter"][:] = (0, 0, 0, key & 0xFFFFFFFFFFFFFFFF)
    philox.state = state
    compose = albumentations.Compose([step.transform() for step in steps])
    compose.set_random_state(np.random.Generator(philox), chance)
    return compose(image=image)["image"]


LISTED = [
    Albumentation(name="GaussNoise", arguments={"p": 0.7}),
    Albumentation(name="HorizontalFlip"),
    Albumentation(name="ColorJitter", arguments={"p": 0.5}),
    Rotation(degrees=20, p=0.5),
    CoarseDropout(holes=2, size=4, p=0.5),
    RandAugment(num_ops=1),
]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(LISTED), min_size=1, max_size=4),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([1, 3]),
)
def test_image_steps_have_the_bits_of_compose(steps, key, channels):
    image = np.random.default_rng(1).integers(0, 256, (20, 16, channels), dtype=np.uint8)
    function = per_image(tuple(steps))
    assert np.array_equal(function(image, key), composed(steps, image.copy(), key))
    assert np.array_equal(function(image, key), function(image, key))


def test_images_in_a_memory_map_are_read_as_those_in_memory(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (9, 8, 6, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    request = Request(np.array([3, 0, 8]), np.array([5, 6, 7]))
    for steps in ((), (RandAugment(),)):
        mapped, held = (
            Fetch(Images(array, np.arange(9), np.zeros(9, dtype=np.int64)), per_image(steps))[request].images
            for array in (np.load(tmp_path / "pixels.npy", mmap_mode="r"), pixels)
        )
        assert torch.equal(mapped, held)
