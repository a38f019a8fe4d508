"""Image files of every kind with the pixels that decoding them must give."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image


def saved(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def palette():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    return image


def rgba(*pixels):
    return Image.fromarray(np.array([pixels], dtype=np.uint8))


def animated():
    frames = [Image.new("RGB", (2, 1), color) for color in ("red", "blue")]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def ppm16():
    return b"P5 2 1 65535\n" + struct.pack(">HH", 0x1234, 0xFFFF)


GOLDEN = {
    "gray": (saved(Image.fromarray(np.array([[7, 200]], np.uint8))), [[7] * 3, [200] * 3]),
    "one_bit": (saved(Image.fromarray(np.array([[False, True]]))), [[0] * 3, [255] * 3]),
    "palette": (saved(palette()), [[10, 20, 30], [200, 100, 50]]),
    "palette_with_transparency": (saved(palette(), transparency=1), [[10, 20, 30], [255] * 3]),
    "rgb": (saved(rgba([1, 2, 3], [4, 5, 6])), [[1, 2, 3], [4, 5, 6]]),
    "alpha_over_white": (saved(rgba([250, 100, 50, 255], [0, 0, 0, 0])), [[250, 100, 50], [255] * 3]),
    "half_alpha": (saved(rgba([200, 100, 50, 128], [0, 0, 0, 255])), [[227, 177, 152], [0, 0, 0]]),
    "gray_alpha": (saved(Image.fromarray(np.array([[[90, 255], [90, 0]]], np.uint8))), [[90] * 3, [255] * 3]),
    "sixteen_bit_png": (saved(Image.fromarray(np.array([[0x1234, 0xFFFF]], np.uint16))), [[0x12] * 3, [0xFF] * 3]),
    "sixteen_bit_tiff": (
        saved(Image.fromarray(np.array([[0x1234, 0x80FF]], np.uint16)), "TIFF"),
        [[0x12] * 3, [0x80] * 3],
    ),
    "sixteen_bit_pgm": (ppm16(), [[0x12] * 3, [0xFF] * 3]),
    "cmyk": (saved(Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "TIFF"), [[255, 0, 0], [255, 0, 0]]),
    "animated_first_frame": (animated(), [[255, 0, 0], [255, 0, 0]]),
}
