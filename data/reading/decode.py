"""Decoding of image files to RGB uint8, with one policy for all formats."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from core.common.errors import DataError
from core.loading.images import Box
from data.reading.progress import printable

if TYPE_CHECKING:
    from PIL import Image

POLICY = (
    "decode 1: gray and palette to RGB; transparency over black; CMYK by Pillow; 16 bit by its high byte; "
    "first frame; upright by EXIF; color profiles ignored"
)
MAX_PIXELS = 89_478_485  # 256 MiB as RGB; checked in the header, before decoding
REDUCED = 2  # JPEGs with up to so many times these pixels (Pillow opens no larger ones) are reduced while decoding
# an explicit list, because some formats of Pillow start other programs (EPS)
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)

ORIENTATION = 0x0112  # of EXIF
_SIDEWAYS = (5, 6, 7, 8)  # orientations with height and width exchanged
_FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}  # orientation -> flipped axes of [C, H, W]

Choose = Callable[[int, int], Box]  # of height and width
Share = tuple[float, float, float, float]  # left, top, right, bottom


class Unreadable(DataError):
    """One or more images cannot be decoded."""


def decode(content: bytes, name: str, size: int | None = None) -> np.ndarray:
    """Decode an image file to uint8 [H, W, 3].

    size: center-crop to the largest square and resize it (bilinear, antialiased) to H = W = size. Raises Unreadable,
    with the name of the file, if it cannot be decoded.
    """
    return decode_with_area(content, name, size)[0]


def decode_with_area(content: bytes, name: str, size: int | None = None) -> tuple[np.ndarray, int]:
    """As `decode`, with the number of pixels of the file before cropping and resizing."""
    return _decode(content, name, size, None)


def decode_crop(content: bytes, name: str, size: int, choose: Choose) -> np.ndarray:
    """Decode the box returned by `choose(height, width)`, for the upright image, resized (bilinear, antialiased) to
    uint8 [size, size, 3]. A JPEG is decoded at the smallest sufficient scale. Raises Unreadable."""
    return np.array(_decode(content, name, size, choose)[0])  # a writable copy


def fitted(pixels: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """(uint8 [size, size, 3], number of pixels before) of an image array, uint8 [H, W] or [H, W, 1 or 3], cropped and
    resized as by `decode`."""
    from PIL import Image

    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(flat)).convert("RGB")
    return np.array(_cut(image, size, None)), image.width * image.height


def _decode(content: bytes, name: str, size: int | None, choose: Choose | None) -> tuple[np.ndarray, int]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            area = image.width * image.height
            reducible = size is not None and image.format == "JPEG"
            if area > MAX_PIXELS * (REDUCED if reducible else 1):
                raise ValueError(f"{image.width} x {image.height} pixels exceed the limit of {MAX_PIXELS:,}; reduce it")
            orientation = _orientation(image)
            share = _share(choose, image, orientation) if choose else None
            if size is not None and reducible:
                least = _enough(size, share, orientation) if share else (4 * size, 4 * size)
                if area > MAX_PIXELS:  # decoded at scale 1/2 at most, although a small crop would need more
                    least = (min(least[0], image.width // 2), min(least[1], image.height // 2))
                if min(image.width // least[0], image.height // least[1]) > 1:
                    image.draft(None, least)  # decodes at scale 1/2, 1/4 or 1/8, but never below `least`
                elif share and image.mode in ("RGB", "L"):
                    return _cut_jpeg(content, size, share, orientation), area
            made = _rgb(image, size, share)
            return np.frombuffer(made.tobytes(), np.uint8).reshape(made.height, made.width, 3), area
    except Exception as error:  # Pillow raises nearly any exception for damaged files: SyntaxError, struct.error, ...
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise Unreadable([f"{printable(name)}: {printable(reason)}"]) from None


def _orientation(image: Image.Image) -> int:
    """How Pillow will turn an image, as the number of EXIF: 1, or 2 to 8. Images other than JPEG are turned here, so
    that the answer is 1: for some of them, Pillow knows or exchanges the sides only when they are loaded."""
    from PIL import ImageOps

    if image.format != "JPEG":
        ImageOps.exif_transpose(image, in_place=True)  # in place, to avoid a copy of upright images
        return 1
    # the one decision for both decoders of JPEG: torchvision understands fewer kinds of EXIF, and no XMP
    return {number: number for number in range(2, 9)}.get(image.getexif().get(ORIENTATION, 1), 1)


def _share(choose: Choose, image: Image.Image, orientation: int) -> Share:
    """The box as fractions of the sides of the upright image, because a JPEG may be decoded at a smaller scale."""
    height, width = (image.width, image.height) if orientation in _SIDEWAYS else (image.height, image.width)
    top, left, tall, wide = choose(height, width)
    return left / width, top / height, (left + wide) / width, (top + tall) / height


def _enough(size: int, share: Share, orientation: int) -> tuple[int, int]:
    """(width, height) of the file, in its stored orientation, at which the box has at least size x size pixels."""
    left, top, right, bottom = share
    width, height = math.ceil(size / (right - left)), math.ceil(size / (bottom - top))
    return (height, width) if orientation in _SIDEWAYS else (width, height)


def _rgb(image: Image.Image, size: int | None, share: Share | None = None) -> Image.Image:
    from PIL import Image, ImageOps

    image.load()
    if image.format == "JPEG" and ("exif" in image.info or "xmp" in image.info):  # these contain its orientation
        ImageOps.exif_transpose(image, in_place=True)
    eight_bit = _eight_bit(image)
    if eight_bit.has_transparency_data:
        shown = eight_bit.convert("RGBA")
        black = Image.new("RGBA", shown.size, (0, 0, 0, 255))
        result = Image.alpha_composite(black, shown).convert("RGB")
    else:
        result = eight_bit if eight_bit.mode == "RGB" else eight_bit.convert("RGB")
    return result if size is None else _cut(result, size, share)


def _cut(image: Image.Image, size: int, share: Share | None) -> Image.Image:
    """Crop the box (default: the largest centered square) of an upright RGB image and resize it to size x size."""
    from PIL import Image

    if share is None and image.size == (size, size):
        return image
    part = image.crop(_centered(image.size) if share is None else _in_pixels(share, image.size))
    # crop first, because the box argument of resize uses pixels outside the box
    return part.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0)


def _cut_jpeg(content: bytes, size: int, share: Share, orientation: int) -> np.ndarray:
    """As `_cut`, for a JPEG file decoded at full scale, within one gray level; torchvision needs 2/3 of the time."""
    import torch
    from torch.nn.functional import interpolate
    from torchvision.io import ImageReadMode, decode_jpeg

    raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    whole = decode_jpeg(raw, mode=ImageReadMode.RGB, apply_exif_orientation=False)
    whole = whole.transpose(1, 2) if orientation in _SIDEWAYS else whole
    whole = whole.flip(_FLIPS[orientation]) if orientation in _FLIPS else whole
    left, top, right, bottom = _in_pixels(share, (whole.shape[2], whole.shape[1]))
    part = whole[None, :, top:bottom, left:right]
    return interpolate(part, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0).contiguous().numpy()


def _centered(size: tuple[int, int]) -> tuple[int, int, int, int]:
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


def _in_pixels(share: Share, size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(part * size[at % 2]) for at, part in enumerate(share))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert 16-bit grayscale to 8 bits by its high byte, as Pillow does for 16-bit color; Pillow would clip it."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels are not supported; convert the file to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("32-bit pixels are not supported; convert the file to 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))
