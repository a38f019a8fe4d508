"""Augmentation: each step against its definition, and the same for any company a sample is in."""

import numpy as np
import pytest
import torch

from core import randomness as K
from core.augment import Albumentation, CutMix, Cutout, HorizontalFlip, Mixup, RandomCrop, per_image
from core.augment.batch_steps import _beta
from core.loading.batches import Batch
from core.loading.normalize import normalizer

CLASSES = 7


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 3, 12, 10, generator=generator).to(memory_format=torch.channels_last) + 1
    targets = torch.randint(0, CLASSES, (64,), generator=generator)
    return images, targets, torch.from_numpy(K.sample_keys(0, 3, np.arange(64)))


ALL = [RandomCrop(padding=2), RandomCrop(padding=2, reflect=True), HorizontalFlip(), Cutout(size=4)]


@pytest.mark.parametrize("step", ALL, ids=lambda step: f"{step.label()}{getattr(step, 'reflect', '')}")
def test_a_step_on_single_images_depends_on_the_key_alone(step, batch):
    images, targets, keys = batch
    whole = step(images, targets, keys, CLASSES)[0]
    some = step(images[5:9], targets[5:9], keys[5:9], CLASSES)[0]
    assert torch.equal(whole[5:9], some)
    assert not torch.equal(whole, images)
    assert whole.shape == images.shape


@pytest.mark.parametrize("reflect", [False, True])
def test_crop_equals_cutting_each_image_on_its_own(reflect, batch):
    images, targets, keys = batch
    cropped, _ = RandomCrop(padding=2, reflect=reflect)(images, targets, keys, CLASSES)
    down, right = K.integers(keys, "crop down", 5), K.integers(keys, "crop right", 5)
    assert set(down.tolist()) == set(range(5))
    mode = "reflect" if reflect else "constant"
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode=mode)
    for i in range(len(images)):
        y, x = int(down[i]), int(right[i])
        assert torch.equal(cropped[i], padded[i, :, y : y + 12, x : x + 10])


def test_crop_keeps_channels_last_in_memory(batch):
    cropped, _ = RandomCrop(padding=2)(*batch, CLASSES)
    assert cropped.is_contiguous(memory_format=torch.channels_last)


def test_flip_mirrors_about_half(batch):
    images, targets, keys = batch
    flipped, _ = HorizontalFlip()(images, targets, keys, CLASSES)
    mirrored = [i for i in range(64) if torch.equal(flipped[i], images[i].flip(2))]
    kept = [i for i in range(64) if torch.equal(flipped[i], images[i])]
    assert sorted(mirrored + kept) == list(range(64))
    assert 16 < len(mirrored) < 48


@pytest.mark.parametrize(("p", "same"), [(0.0, True), (1.0, False)])
def test_flip_probability_at_its_ends(p, same, batch):
    images, targets, keys = batch
    flipped, _ = HorizontalFlip(p=p)(images, targets, keys, CLASSES)
    assert torch.equal(flipped, images if same else images.flip(3))


def test_cutout_blanks_one_square_of_the_stated_size(batch):
    images, targets, keys = batch
    cut, _ = Cutout(size=4)(images, targets, keys, CLASSES)
    blank = (cut == 0).all(dim=1)
    assert blank.sum(dim=(1, 2)).max() == 16
    assert torch.equal(cut[~blank[:, None].expand_as(cut)], images[~blank[:, None].expand_as(cut)])
    for image in blank:
        rows, columns = image.any(dim=1).sum(), image.any(dim=0).sum()
        assert image.sum() == rows * columns


@pytest.mark.parametrize("size", [4, 5, 9])
def test_cutout_cuts_where_the_papers_code_does(size, batch):
    """DeVries and Taylor 2017: a center drawn evenly, half the side to either hand, cut off at the edges."""
    images, targets, keys = batch
    cut, _ = Cutout(size=size)(images, targets, keys, CLASSES)
    down, right = K.integers(keys, "cutout down", 12), K.integers(keys, "cutout right", 10)
    assert set(down.tolist()) == set(range(12))
    assert set(right.tolist()) == set(range(10))
    for image, whole, y, x in zip(cut, images, down.tolist(), right.tolist(), strict=True):
        expected = whole.clone()
        top, left = y - size // 2, x - size // 2
        expected[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0
        assert torch.equal(image, expected)


def test_mixup_is_linear_between_neighbors(batch):
    images, targets, keys = batch
    mixed, soft = Mixup(alpha=1.0)(images, targets, keys, CLASSES)
    lam = K.uniform(keys, "mixup")
    partner = torch.arange(64) ^ 1
    expected = lam[:, None, None, None] * images + (1 - lam)[:, None, None, None] * images[partner]
    one_hot = torch.nn.functional.one_hot(targets, CLASSES).float()
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(soft, lam[:, None] * one_hot + (1 - lam)[:, None] * one_hot[partner])


def test_cutmix_targets_are_the_areas_that_are_seen(batch):
    images, targets, keys = batch
    mixed, soft = CutMix()(images, targets, keys, CLASSES)
    partner = torch.arange(64) ^ 1
    for i in range(64):
        own = (mixed[i] == images[i]).all(dim=0)
        assert ((mixed[i] == images[partner[i]]).all(dim=0) | own).all()
        expected = torch.zeros(CLASSES)
        expected[targets[i]] += own.float().mean()
        expected[targets[partner[i]]] += 1 - own.float().mean()
        torch.testing.assert_close(soft[i], expected)


def test_cutmix_cuts_out_1_minus_lam_of_the_image():
    """Yun et al. 2019, equation 2: sides of sqrt(1 - lam). Boxes that reach over the edge lose what is outside."""
    keys = torch.from_numpy(K.sample_keys(0, 0, np.arange(2000)))
    number = torch.arange(2000.0)[:, None, None, None].expand(2000, 1, 40, 30)
    targets = torch.zeros(2000, dtype=torch.int64)
    pasted = CutMix()(number, targets, keys, CLASSES)[0][:, 0] != number[:, 0]
    lam = K.uniform(keys, "cutmix")  # Beta(1, 1)
    tall, wide = pasted.any(dim=2).sum(dim=1), pasted.any(dim=1).sum(dim=1)
    whole_tall, whole_wide = ((1 - lam).sqrt() * 40).long(), ((1 - lam).sqrt() * 30).long()
    drawn = pasted.flatten(1).any(dim=1)
    assert (tall <= whole_tall).all()
    assert (wide <= whole_wide).all()
    inside = drawn & ~(pasted[:, 0].any(1) | pasted[:, -1].any(1) | pasted[:, :, 0].any(1) | pasted[:, :, -1].any(1))
    assert inside.sum() > 100
    assert torch.equal(tall[inside], whole_tall[inside])
    assert torch.equal(wide[inside], whole_wide[inside])


@pytest.mark.parametrize("kind", [Mixup, CutMix])
def test_p_is_the_share_of_images_mixed(kind):
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.randn(2000, 1, 8, 8, generator=generator), torch.arange(2000) % CLASSES
    keys = torch.from_numpy(K.sample_keys(0, 0, np.arange(2000)))
    for p in (0.0, 0.25, 1.0):
        mixed, soft = kind(alpha=1.0, p=p)(images, targets, keys, CLASSES)
        changed = (mixed != images).flatten(1).any(dim=1)
        # a box may lie outside, or be smaller than a pixel
        assert p - 0.05 < changed.float().mean() < p + 0.03, p
        assert torch.equal(soft[~changed], torch.nn.functional.one_hot(targets, CLASSES)[~changed].float())


def test_mixing_twice_keeps_targets_a_distribution(batch):
    images, targets, keys = batch
    mixed, soft = CutMix()(*Mixup()(images, targets, keys, CLASSES), keys, CLASSES)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(64))
    assert mixed.shape == images.shape


def test_the_last_of_an_odd_batch_mixes_with_itself(batch):
    images, targets, keys = (tensor[:7] for tensor in batch)
    mixed, soft = Mixup(alpha=1.0)(images, targets, keys, CLASSES)
    torch.testing.assert_close(mixed[6], images[6])
    assert soft[6, targets[6]] == 1


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_lam_follows_the_beta_distribution(alpha):
    from scipy.stats import beta

    drawn = _beta(torch.from_numpy(K.sample_keys(1, 0, np.arange(20_000))), "x", alpha).numpy()
    for x in np.linspace(0.01, 0.99, 50):  # closer to 1, float32 cannot tell values apart
        assert abs((drawn < x).mean() - beta(alpha, alpha).cdf(x)) < 0.012


def test_normalized_images_have_mean_0_and_deviation_1():
    pixels = torch.randint(0, 256, (32, 8, 8, 3), dtype=torch.uint8)
    scaled = pixels.double() / 255
    mean, std = scaled.mean(dim=(0, 1, 2)), scaled.std(dim=(0, 1, 2), correction=0)
    out = normalizer(mean.tolist(), std.tolist(), torch.device("cpu"))(Batch(pixels, *[torch.empty(0)] * 3)).images
    torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(dim=(0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
    assert out.shape == (32, 3, 8, 8)
    assert out.is_contiguous(memory_format=torch.channels_last)


JITTER = (
    Albumentation(name="ColorJitter", arguments={"p": 1.0}),
    Albumentation(name="RandomResizedCrop", arguments={"size": (16, 16), "p": 1.0}),
    Albumentation(name="CoarseDropout", arguments={"p": 0.5}),
)


def test_albumentations_depend_on_the_key_alone():
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    keys = K.sample_keys(0, 0, np.arange(6)).tolist()
    first, second = per_image(JITTER), per_image(JITTER)
    forward = [first(image, key) for image, key in zip(images, keys, strict=True)]
    backward = [second(image, key) for image, key in zip(images[::-1], keys[::-1], strict=True)][::-1]
    assert np.array_equal(forward, backward)
    other = [first(images[0], key) for key in keys]
    assert not np.array_equal(other[0], other[1])


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ColorJiter", {}, "ColorJitter"),
        ("ColorJitter", {"brightnes": 0.1}, "brightnes"),
        ("ColorJitter", {"brightness": "a lot"}, "ColorJitter"),
        ("Compose", {}, "no transform Compose"),
    ],
)
def test_wrong_albumentations_are_refused_before_any_image_is_read(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        Albumentation(name=name, arguments=arguments).check()


def test_an_image_step_behind_a_batch_step_is_refused():
    with pytest.raises(ValueError, match="must come before random_crop"):
        per_image((RandomCrop(), JITTER[0]))


@pytest.mark.parametrize("side", [8, 100])
def test_large_images_are_mirrored_as_small_ones_are(side):
    images = torch.randn(6, 3, side, side).to(memory_format=torch.channels_last)
    keys = torch.arange(6) * 7919
    before = images.clone()
    made, _ = HorizontalFlip()(images, torch.zeros(6), keys, 2)
    chosen = K.uniform(keys, "horizontal flip") < 0.5
    assert 0 < chosen.sum() < 6
    assert torch.equal(made, torch.where(chosen[:, None, None, None], images.flip(3), images))
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
