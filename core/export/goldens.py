"""Sixteen golden images: files of the kinds that preparation outside of labbook gets wrong, with expected answers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

EXPECTED = "expected.json"
_ORIENTATION = 0x0112  # of EXIF


def goldens(images: np.ndarray) -> dict[str, bytes]:
    """{name: content of a file} made from images of a run, uint8 [N, H, W, C] with N >= 1."""
    from PIL import Image, ImageChops

    def photo(number: int, width: int, height: int) -> Image.Image:
        pixels = images[number % len(images)]
        color = Image.fromarray(pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2))
        return color.resize((width, height), Image.Resampling.BICUBIC)

    height, width = images.shape[1:3]
    wide, tall = 2 * width + 7, height + 5
    color, gray = photo(0, wide, tall), photo(1, wide, tall).convert("L")
    mask = ImageChops.invert(Image.linear_gradient("L")).resize(color.size)
    clear = color.copy()
    clear.putalpha(mask)
    palette = photo(2, wide, tall).quantize(64)
    palette.info["transparency"] = 3
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257 + 13)
    return {
        "of_the_size.png": _file(photo(3, width, height), "PNG"),
        "wide.png": _file(color, "PNG"),
        "tall.jpg": _file(photo(4, tall, 3 * tall), "JPEG", quality=90),
        "panorama.jpg": _file(photo(5, 9 * tall, tall), "JPEG", progressive=True),
        "huge.jpg": _file(photo(6, 5000, 4000), "JPEG", quality=30),
        "one_pixel.png": _file(photo(7, 1, 1), "PNG"),
        "rotated_by_exif.jpg": _file(color, "JPEG", exif=_turned(6)),
        "rotated_by_exif.tif": _file(gray, "TIFF", exif=_turned(8)),
        "cmyk.jpg": _file(color.convert("CMYK"), "JPEG", quality=95),
        "gray.jpg": _file(gray, "JPEG", quality=95),
        "gray_16_bits.png": _file(deep, "PNG"),
        "two_levels.png": _file(gray.convert("1"), "PNG"),
        "transparent.png": _file(clear, "PNG"),
        "gray_transparent.png": _file(Image.merge("LA", (gray, mask)), "PNG"),
        "palette_transparent.png": _file(palette, "PNG", transparency=3),
        "lossless.webp": _file(photo(8, wide, tall), "WEBP", lossless=True),
    }


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _turned(orientation: int) -> Image.Exif:
    from PIL import Image

    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return exif
