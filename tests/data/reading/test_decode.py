import contextlib
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.reading import decode as module
from data.reading.decode import Conversion, Unreadable, decode, decode_crop, decoded
from tests.support.golden import GOLDEN, saved
from tests.support.samples import encoded, noise


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_pixels(name):
    content, expected = GOLDEN[name]
    pixels = decode(content, name)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [expected]


def test_cmyk_jpeg_keeps_its_colors():
    pixels = decode(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95), "a.jpg")
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() < 8


def test_sixteen_bit_keeps_its_levels():
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    assert len(np.unique(decode(saved(Image.fromarray(ramp)), "ramp.png"))) == 256


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    left_white = np.zeros((16, 32, 3), np.uint8)
    left_white[:, :16] = 255
    pixels = decode(encoded(left_white, "JPEG", exif=exif), "a.jpg")
    assert pixels.shape == (32, 16, 3)
    assert pixels[:12].min() > 240
    assert pixels[20:].max() < 15


@pytest.mark.parametrize(("height", "width"), [(100, 300), (300, 100), (20, 50), (64, 64)])
def test_the_centered_square_is_resized(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = (10, 120, 240)
    assert np.array_equal(decode(encoded(pixels), "a.png", 64), np.full((64, 64, 3), (10, 120, 240)))


def test_resizing_averages_instead_of_picking():
    checks = np.zeros((256, 256, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    assert np.abs(decode(encoded(checks), "a.png", 32).astype(int) - 127).max() <= 2


def test_a_large_jpeg_decoded_at_reduced_scale_looks_the_same():
    waves = np.fromfunction(lambda y, x, c: 127 + 100 * np.sin(x / 90 + c) * np.cos(y / 70), (800, 1200, 3))
    waves = waves.astype(np.uint8)
    direct = decode(encoded(waves), "a.png", 32).astype(int)
    assert np.abs(decode(encoded(waves, "JPEG", quality=98), "a.jpg", 32) - direct).mean() < 1.5


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_jpeg_beyond_the_limit_is_reduced_while_it_is_decoded(monkeypatch):
    waves = np.fromfunction(lambda y, x, c: 127 + 100 * np.sin(x / 90 + c) * np.cos(y / 70), (800, 1200, 3))
    content, png = (encoded(waves.astype(np.uint8), form) for form in ("JPEG", "PNG"))
    crops = [decode_crop(content, "a.jpg", 300, lambda height, width: (10, 20, 700, 900)).astype(int)]
    crops.append(decode(content, "a.jpg", 300).astype(int))
    monkeypatch.setattr(module, "MOST_PIXELS", 1_200_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600_000)
    how = Conversion(max_pixels=600_000)
    reduced = [
        decode_crop(content, "a.jpg", 300, lambda height, width: (10, 20, 700, 900), how),
        decode(content, "a.jpg", 300, how),
    ]
    for ours, theirs in zip(reduced, crops, strict=True):
        assert np.abs(ours - theirs).mean() < 2
    too_large = "1200 x 800 pixels exceed the limit of 600,000; set --data.max_megapixels 1, or reduce it"
    with pytest.raises(Unreadable, match=too_large):
        decode(png, "a.png", 300, how)
    assert decode(png, "a.png", 300, Conversion(max_pixels=1_000_000)).shape == (300, 300, 3)
    monkeypatch.setattr(module, "MOST_PIXELS", 800_000)
    with pytest.raises(Unreadable, match="exceed the limit of 600,000; reduce it"):
        decode(content, "a.jpg", 300, how)


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9500, 13000, 60000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header(side, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(Unreadable, match=r"bomb\.png.*(pixels|bomb)"):
        decode(png_header(side, side), "bomb.png")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", encoded(noise(0))[:200], encoded(noise(0), "JPEG")[:300], encoded(noise(0), "PCX")],
    ids=["empty", "text", "cut_png", "cut_jpeg", "a_format_not_declared"],
)
def test_broken_files_are_named(content):
    with pytest.raises(Unreadable, match=r"^some/file\.jpg: \w"):
        decode(content, "some/file.jpg")


def test_pixels_without_a_declared_range_are_refused():
    for values in (np.ones((2, 2), np.float32), np.full((2, 2), 70000, np.int32), np.full((2, 2), -1, np.int32)):
        with pytest.raises(Unreadable, match="pixels are not supported"):
            decode(saved(Image.fromarray(values), "TIFF"), "a.tiff")


def test_the_error_prints_no_control_characters():
    with pytest.raises(Unreadable) as caught:
        decode(b"", "a\x1b[31m\udc80.jpg")
    caught.value.lines[0].encode("ascii")
    assert "\x1b" not in caught.value.lines[0]


SEEDS = [content for content, _ in GOLDEN.values()] + [encoded(noise(0, 24, 24), "JPEG"), encoded(noise(0), "WEBP")]


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8), st.floats(0, 1))
def test_mutated_files_decode_or_are_unreadable(content, edits, keep):
    mutated = bytearray(content[: max(1, round(len(content) * keep))] if keep < 0.5 else content)
    for where, value in edits:
        mutated[min(int(where * len(mutated)), len(mutated) - 1)] = value
    with contextlib.suppress(Unreadable):  # any other error fails the test
        pixels = decode(bytes(mutated), "a.bin", 16)
        assert pixels.shape == (16, 16, 3)
        assert pixels.dtype == np.uint8


def test_transparency_is_shown_over_the_declared_color():
    drawn = saved(Image.fromarray(np.array([[[0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)))
    white, black = (decoded(drawn, "a.png", None, Conversion(background=color)) for color in ("white", "black"))
    assert white.pixels[0, :, 0].tolist() == [0, 255]
    assert black.pixels[0, :, 0].tolist() == [0, 0]
    assert (white.converted, black.converted) == (" over white", "")
    opaque = saved(Image.fromarray(np.array([[[9, 8, 7, 255]]], np.uint8)))
    assert decoded(opaque, "a.png", None, Conversion()).converted == ""


@given(st.integers(255, 0xFFFF), st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=9))
def test_sixteen_bit_gray_is_scaled_from_the_declared_range(max_value, values):
    content = saved(Image.fromarray(np.array([values], np.uint16)))
    found = decode(content, "a.png", None, Conversion(max_value=max_value))[0, :, 0].astype(int)
    expected = np.minimum(values, max_value) * 255 / max_value
    assert np.abs(found - expected).max() <= 1
    if max_value == 0xFFFF:
        assert found.tolist() == [value >> 8 for value in values]


def test_a_range_is_refused_for_16_bit_color():
    import cv2  # Pillow writes no such file

    content = cv2.imencode(".png", np.full((2, 2, 3), 4000, np.uint16))[1].tobytes()
    assert decode(content, "a.png")[0, 0].tolist() == [15, 15, 15]
    with pytest.raises(Unreadable, match="max_value applies to grayscale files only"):
        decode(content, "a.png", None, Conversion(max_value=4095))


@pytest.mark.parametrize("form", ["AVIF", "JPEG2000"])
def test_formats_that_pillow_reads_are_read(form):
    assert np.abs(decode(encoded(np.full((32, 32, 3), 90, np.uint8), form), "a").astype(int) - 90).max() <= 2


def test_the_policy_names_every_choice():
    for word in ("gray", "transparency", "CMYK", "16 bit", "first frame", "EXIF"):
        assert word in Conversion().policy


def test_transparency_of_16_bit_gray_is_seen():
    content = saved(Image.fromarray(np.array([[0x1234, 0xFFFF]], np.uint16)), transparency=0x1234)
    assert decode(content, "a.png")[0, :, 0].tolist() == [255, 255]
    assert decode(content, "a.png", None, Conversion("black"))[0, :, 0].tolist() == [0, 255]
