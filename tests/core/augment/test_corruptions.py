"""Corruptions: what they do to images of every size, and that it depends on the key alone."""

import colorsys
import io
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from core.augment import frost
from core.augment.corruptions import KINDS, SEVERITIES, Corruption, lacking
from tests.support import frost_wheel


@pytest.fixture(scope="module", autouse=True)
def photographs(tmp_path_factory):
    """Five photographs of noise in place of the authors'."""
    folder = tmp_path_factory.mktemp("frost")
    frost_wheel.write(folder / frost.NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frost, "wheel", lambda: folder / frost.NAME)
        yield


FIXED = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}  # without chance


def scene(side, channels=3):
    """A smooth image, uint8 [side, side, channels]."""
    noise = np.random.default_rng(0).normal(size=(side, side, channels))
    smooth = gaussian_filter(noise, (side / 12, side / 12, 0))
    return np.rint(np.interp(smooth, (smooth.min(), smooth.max()), (20, 220))).astype(np.uint8)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (8, 3), (28, 1), (32, 3), (112, 3)])
def test_images_of_every_size_are_corrupted_by_their_key_alone(side, channels):
    image = scene(side, channels)
    before = image.copy()
    for kind in KINDS:
        if lacking(kind, side):
            assert (side, kind) in {(8, "motion_blur"), (8, "snow")}
            continue
        made = [Corruption(kind, severity)(image, -5) for severity in SEVERITIES]
        assert all(each.shape == image.shape and each.dtype == np.uint8 for each in made)
        assert np.array_equal(image, before)
        assert (made[4] != image).any(), kind
        assert np.array_equal(Corruption(kind, 4)(image, -5), made[3]), kind
        assert np.array_equal(Corruption(kind, 4)(image, 6), made[3]) == (kind in FIXED), kind


def test_threads_draw_the_same_as_one():
    image = scene(32)
    jobs = [(Corruption(kind, 3), key) for kind in ("gaussian_noise", "glass_blur", "fog") for key in range(60)]
    alone = [corruption(image, key) for corruption, key in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: job[0](image, job[1]), jobs))
    assert all(map(np.array_equal, alone, together))


@pytest.mark.parametrize(("side", "channels", "factor"), [(16, 1, 0.2), (32, 3, 0.2), (64, 3, 0.4), (224, 3, 1.0)])
def test_frost_is_a_part_of_a_photograph_laid_over_the_image(side, channels, factor):
    white, black = (np.full((side, 2 * side, channels), value, np.uint8) for value in (255, 0))
    for severity, kept, laid in (
        (1, 1, 0.4 if side > 96 else 0.2),
        (5, 0.6 if side > 96 else 0.75, 0.75 if side > 96 else 0.45),
    ):
        layer = Corruption("frost", severity)(black, 7) / 255 / laid
        assert Corruption("frost", severity)(white, 7) / 255 == pytest.approx(
            np.minimum(kept + laid * layer, 1), abs=0.005
        )
        assert 0.3 < layer.mean() < 0.7
    parts = [frost.drawn(side, 2 * side, factor, np.random.default_rng(key)) for key in range(20)]
    assert {part.shape for part in parts} == {(side, 2 * side, 3)}
    assert len({part.tobytes() for part in parts}) == 20


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("kind", ["gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "motion_blur",
                                  "zoom_blur", "fog", "brightness", "contrast", "jpeg_compression"])  # fmt: skip
def test_a_higher_severity_changes_more(kind, side):
    image = scene(side).astype(int)
    far = [np.abs(Corruption(kind, severity)(image.astype(np.uint8), 1) - image).mean() for severity in SEVERITIES]
    assert far[0] > 0
    assert all(lower <= higher * 1.02 for lower, higher in itertools.pairwise(far)), far
    assert far[4] > 1.3 * far[0]


def test_they_are_the_formulas_of_the_paper():
    image = scene(32)
    share = image / 255
    brighter = Corruption("brightness", 3)(image, 0)[5, 7]
    hue, saturation, value = colorsys.rgb_to_hsv(*share[5, 7])
    assert brighter == pytest.approx(
        np.array(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.15, 1))) * 255, abs=0.6
    )
    flat = (share - share.mean((0, 1))) * 0.3 + share.mean((0, 1))
    assert Corruption("contrast", 4)(image, 0) == pytest.approx(flat * 255, abs=0.6)
    gray = np.full((32, 32, 3), 128, np.uint8)
    noisy = [Corruption("gaussian_noise", 5)(gray, key) for key in range(20)]
    assert np.std(noisy) / 255 == pytest.approx(0.1, rel=0.03)
    grainy = [Corruption("shot_noise", 5)(gray, key) for key in range(20)]
    assert np.var(np.array(grainy) / 255) == pytest.approx(128 / 255 / 50, rel=0.05)
    struck = np.array([Corruption("impulse_noise", 5)(gray, key) for key in range(20)])
    assert (struck != 128).mean() == pytest.approx(0.07, rel=0.1)
    assert (struck == 255).sum() == pytest.approx((struck == 0).sum(), rel=0.1)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=40)
    saved = np.asarray(Image.open(stream))
    assert np.array_equal(Corruption("jpeg_compression", 5)(image, 0), saved)
    coarse = Image.fromarray(image).resize((20, 20), Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
    assert np.array_equal(Corruption("pixelate", 5)(image, 0), coarse)
