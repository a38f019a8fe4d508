"""The bytes of an image file -> RGB uint8, by one declared policy."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from core.images import DataError
from data.terminal import printable

if TYPE_CHECKING:
    from PIL import Image

POLICY = (
    "decode 1: grey and palette to RGB; transparency over black; CMYK by Pillow; 16 bit by its high byte; "
    "first frame; upright by EXIF; colour profiles ignored"
)
MAX_PIXELS = 89_478_485  # 256 MiB as RGB; checked in the header, before anything is decoded
# Only what labbook declares: Pillow knows formats that start other programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)


class Unreadable(DataError):
    """An image that cannot be decoded, or several."""


def decode(content: bytes, name: str, size: int | None = None) -> np.ndarray:
    """uint8 [H, W, 3]. size: the largest centred square, resized (bilinear, antialiased), so that H = W = size.

    Raises Unreadable, naming the file, for whatever is wrong with it.
    """
    return decode_with_area(content, name, size)[0]


def decode_with_area(content: bytes, name: str, size: int | None = None) -> tuple[np.ndarray, int]:
    """As `decode`, and how many pixels the file itself has."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            area = image.width * image.height
            if area > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            if size is not None and image.format == "JPEG":
                image.draft(None, (4 * size, 4 * size))  # decodes at 1/2, 1/4 or 1/8, yet never below what is asked
            return np.array(_rgb(image, size)), area
    except Exception as error:  # broken files make Pillow raise nearly anything: SyntaxError, struct.error, ...
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise Unreadable([f"{printable(name)}: {printable(reason)}"]) from None


def _rgb(image: Image.Image, size: int | None) -> Image.Image:
    from PIL import Image, ImageOps

    image.load()
    rotated = ImageOps.exif_transpose(image)
    eight_bit = _eight_bit(rotated)
    if eight_bit.has_transparency_data:
        shown = eight_bit.convert("RGBA")
        black = Image.new("RGBA", shown.size, (0, 0, 0, 255))
        result = Image.alpha_composite(black, shown).convert("RGB")
    else:
        result = eight_bit.convert("RGB")
    if size is None:
        return result
    side = min(result.size)
    left, top = (result.width - side) // 2, (result.height - side) // 2
    square = result.crop((left, top, left + side, top + side))  # resize's own box lets in what lies beside it
    return square.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow opens 16-bit colour by its high byte; grey it would clip at 255, leaving all but the darkest white."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels have no declared range; convert the file to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("32-bit pixels have no declared range; convert the file to 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))
