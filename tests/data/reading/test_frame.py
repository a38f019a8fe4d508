"""What is cut from an image, and how it is resized."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from core.common.errors import UserError
from data import ImageFolder, WebShards
from data.reading.decode import decode, decode_crop
from data.reading.frame import Frame
from tests.support.samples import encoded, noise, tree

SIDES = st.integers(1, 150)


@settings(deadline=None)
@given(SIDES, SIDES, st.sampled_from(["nearest", "bilinear", "bicubic"]), st.integers(16, 40), st.integers(8, 40))
def test_the_center_is_that_of_torchvisions_presets_to_the_bit(height, width, interpolation, resize, crop):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    crop = min(crop, resize)
    image = Image.fromarray(noise(height, height, width))
    theirs = Compose([Resize(resize, InterpolationMode(interpolation)), CenterCrop(crop)])(image)
    ours = Frame(crop, crop, interpolation, resize).cut(image)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize(("height", "width"), [(100, 300), (300, 100), (21, 50), (64, 32), (1, 1)])
def test_the_largest_centered_area_of_the_shape_is_resized(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    wide, tall = min(width, max(1, height // 2)), min(height, width * 2)  # of the shape 64 x 32
    top, left = (height - tall) // 2, (width - wide) // 2
    pixels[top : top + tall, left : left + wide] = (10, 120, 240)
    for interpolation in ("nearest", "bilinear", "bicubic"):
        cut = decode(encoded(pixels), "a.png", Frame(64, 32, interpolation))
        assert np.array_equal(cut, np.full((64, 32, 3), (10, 120, 240)))


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_crop_has_the_shape_and_the_interpolation(form):
    checks = np.kron(np.indices((20, 20)).sum(axis=0) % 2 * 255, np.ones((8, 8)))
    content = encoded(np.repeat(checks[..., None], 3, axis=2).astype(np.uint8), form)
    found = {
        name: decode_crop(content, "a", Frame(60, 90, name), lambda height, width: (8, 8, 32, 48))
        for name in ("nearest", "bilinear", "bicubic")
    }
    assert {cut.shape for cut in found.values()} == {(60, 90, 3)}
    spread = {name: float(cut.astype(float).std()) for name, cut in found.items()}
    assert spread["nearest"] > spread["bicubic"] > spread["bilinear"]


def test_what_was_declared_before_has_the_words_that_are_in_the_digests_of_its_images():
    assert Frame(64, 64).policy == "64 x 64, the largest centered square, bilinear, antialiased"
    different = [Frame(64, 32), Frame(32, 64), Frame(64, 64, "bicubic"), Frame(64, 64, "bilinear", 73), Frame(64, 64)]
    assert len({frame.policy for frame in different}) == len(different)


@pytest.mark.parametrize(
    ("given", "kept"), [(64, 64), ("64", 64), ("64x64", 64), ("32x64", "32x64"), ((32, 64), "32x64"), ([9, 8], "9x8")]
)
def test_sizes_are_recorded_as_they_were_or_as_height_and_width(given, kept):
    data = ImageFolder(size=given)
    assert data.size == kept
    assert ImageFolder.read(data.record()) == data
    assert ImageFolder(size=32).but({"size": given}) == data
    assert (data.frame.height, data.frame.width) == tuple(map(int, f"{kept}x{kept}".split("x")[:2]))


@pytest.mark.parametrize("size", [7, 4097, "7x64", "64x", "x64", "64 x 64", "8x8x8", (8,) * 3, -64, True, None, 64.5])
def test_other_sizes_are_refused_in_words(size):
    with pytest.raises(UserError, match="size: should be a side of 8 to 4096 pixels, or two, HEIGHTxWIDTH"):
        ImageFolder.read({"size": size})


@pytest.mark.parametrize("kind", [ImageFolder, WebShards])
def test_a_center_that_is_not_within_is_refused_before_data_are_read(kind):
    kind(size=224, resize_size=256).check()
    for size in (257, "64x32"):
        with pytest.raises(ValueError, match=rf"resize_size 256 requires a square size of at most this, not {size}"):
            kind(size=size, resize_size=256).check()


def test_a_folder_is_read_so_whether_it_is_cached_or_not(tmp_path):
    source = tree(tmp_path / "source", size=(40, 70))
    for fields in ({"size": "24x36"}, {"size": 24, "resize_size": 30, "interpolation": "bicubic"}):
        kept, files = (ImageFolder(cached=cached, **fields).load(source) for cached in (True, False))
        assert kept.train.shape == files.train.shape == (*kept.train.pixels.shape[1:3], 3)
        assert np.array_equal(kept.train.pixels[kept.train.rows], files.train.pixels[files.train.rows])
        content = (source / "test" / "cat" / "00.png").read_bytes()
        expected = decode(content, "", ImageFolder(**fields).frame)
        assert np.array_equal(kept.test.pixels[kept.test.rows[0]], expected)
