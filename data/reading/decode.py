"""Decoding of image files to RGB uint8, with one policy for all formats."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core.common.errors import DataError
from core.loading.images import Box
from data.reading.frame import Frame, Share, in_pixels
from data.reading.progress import printable

if TYPE_CHECKING:
    import torch
    from PIL import Image

MAX_VALUE = 0xFFFF  # of 16 bits
MAX_PIXELS = 90_000_000  # 270 MB as RGB; checked in the header, before decoding
MOST_PIXELS = 178_000_000  # Pillow opens no larger images; a JPEG above the limit is reduced while decoding
# an explicit list, because some formats of Pillow start other programs (EPS)
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif", ".jp2", ".j2k", ".jpx"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
# images, but in formats that are not supported
UNSUPPORTED = frozenset(".heic .heif .jxl .svg .psd .raw .dng .cr2 .nef .arw .eps .ico .tga .exr .hdr .dcm".split())

ORIENTATION = 0x0112  # of EXIF
_SIDEWAYS = (5, 6, 7, 8)  # orientations with height and width exchanged
_FLIPS = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}  # orientation -> flipped axes of [C, H, W]

Choose = Callable[[int, int], Box]  # of height and width


class Unreadable(DataError):
    """One or more images cannot be decoded."""


@dataclass(frozen=True)
class Conversion:
    """How pixels that are not 8-bit RGB become so.

    background: color behind transparent pixels.  max_value: value of 16-bit grayscale files that becomes 255, as
    v * 256 // (max_value + 1); larger values are clipped.  max_pixels: of a file; larger ones are unreadable, but JPEGs
    are reduced while decoding, up to MOST_PIXELS.
    """

    background: Literal["white", "black"] = "white"
    max_value: int = MAX_VALUE
    max_pixels: int = MAX_PIXELS

    @property
    def policy(self) -> str:
        """All that this module does to an image, in words; part of the key of a cache."""
        deep = "16 bit by its high byte" if self.max_value == MAX_VALUE else f"16-bit gray from 0 .. {self.max_value:,}"
        larger = f"; up to {self.max_pixels:,} pixels" if self.max_pixels != MAX_PIXELS else ""
        return (
            f"decode 1: gray and palette to RGB; transparency over {self.background}; CMYK by Pillow; {deep}; "
            f"first frame; upright by EXIF; color profiles ignored{larger}"
        )


FIRST = Conversion(background="black")  # of the first version, whose words are in the digests of all images
AS_DECLARED = Conversion()


@dataclass(frozen=True)
class Decoded:
    """pixels: uint8 [H, W, 3].  area: number of pixels of the file, before cropping and resizing.  converted: what was
    done otherwise than by FIRST, or ""."""

    pixels: np.ndarray
    area: int
    converted: str = ""


def decode(content: bytes, name: str, size: int | Frame | None = None, how: Conversion = AS_DECLARED) -> np.ndarray:
    """Decode an image file to uint8 [H, W, 3].

    size: the frame that is cut from it; None: all of it. Raises Unreadable, with the name of the file, if it cannot be
    decoded.
    """
    return decoded(content, name, size, how).pixels


def decode_crop(
    content: bytes, name: str, size: int | Frame, choose: Choose, how: Conversion = AS_DECLARED
) -> np.ndarray:
    """Decode the box returned by `choose(height, width)`, for the upright image, resized to the height and width of
    the frame, uint8 [H, W, 3]. A JPEG is decoded at the smallest sufficient scale. Raises Unreadable."""
    return np.require(_decoded(content, name, size, choose, how).pixels, requirements=["C", "W"])


def decoded(content: bytes, name: str, size: int | Frame | None, how: Conversion) -> Decoded:
    """As `decode`, with what a cache keeps of an image."""
    return _decoded(content, name, size, None, how)


def decode_opened(image: Image.Image, name: str, size: int | Frame, how: Conversion = AS_DECLARED) -> np.ndarray:
    """As `decode`, for an image of Pillow, which may have been read already. Raises Unreadable, with this name."""
    from PIL import ImageFile, ImageOps

    if isinstance(image, ImageFile.ImageFile) and image.format == "JPEG" and image.fp and image.tile:
        place = image.fp.tell()  # not read yet: a large file is decoded at a smaller scale
        image.fp.seek(0)
        content = image.fp.read()
        image.fp.seek(place)
        return decode(content, name, size, how)
    try:
        is_deep = deep(image)
        made, _ = to_rgb(ImageOps.exif_transpose(image), how, is_deep)
        return np.array(Frame.of(size).cut(made))
    except Exception as error:  # as of files: Pillow raises nearly any exception
        raise Unreadable([f"{name}: {printable(str(error) or type(error).__name__)}"]) from None


def fitted(pixels: np.ndarray, size: int | Frame) -> tuple[np.ndarray, int]:
    """(the frame uint8 [height, width, 3], number of pixels before) of an image array, uint8 [H, W] or [H, W, 1 or 3],
    as by `decode`."""
    from PIL import Image

    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(flat)).convert("RGB")
    return np.array(Frame.of(size).cut(image)), image.width * image.height


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Images uint8 [..., 1 or 3] as a network of so many channels, 1 or 3, takes them."""
    if pixels.shape[-1] == channels:
        return pixels
    return np.repeat(pixels, 3, axis=-1) if channels == 3 else _gray(pixels)


def _gray(pixels: np.ndarray) -> np.ndarray:
    """Color images uint8 [..., 3] as uint8 [..., 1], the mean of the channels."""
    gray: np.ndarray = np.rint(pixels.mean(axis=-1, keepdims=True)).astype(np.uint8)
    return gray


def _decoded(content: bytes, name: str, size: int | Frame | None, choose: Choose | None, how: Conversion) -> Decoded:
    from PIL import Image

    frame = None if size is None else Frame.of(size)
    try:
        if not content:
            raise ValueError("the file is empty")
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            area = image.width * image.height
            reducible = frame is not None and image.format == "JPEG"
            if area > (MOST_PIXELS if reducible else how.max_pixels):
                raise ValueError(_too_large(image.width, image.height, how.max_pixels))
            is_deep = deep(image)
            orientation = _orientation(image)
            share = _share(choose, image, orientation) if choose else None
            if frame and reducible:
                least = frame.enough(share) if share else (frame.ample, frame.ample)
                least = least[::-1] if orientation in _SIDEWAYS else least
                if area > how.max_pixels:  # decoded at scale 1/2 at most, although a small crop would need more
                    least = (min(least[0], image.width // 2), min(least[1], image.height // 2))
                if min(image.width // least[0], image.height // least[1]) > 1:
                    image.draft(None, least)  # decodes at scale 1/2, 1/4 or 1/8, but never below `least`
                elif share and image.mode in ("RGB", "L"):
                    return Decoded(_cut_jpeg(content, frame, share, orientation), area)
            made, converted = to_rgb(image, how, is_deep)
            if frame:
                made = frame.cut_share(made, share) if share else frame.cut(made)
            pixels = np.frombuffer(made.tobytes(), np.uint8).reshape(made.height, made.width, 3)
            return Decoded(pixels, area, converted)
    except Exception as error:  # Pillow raises nearly any exception for damaged files: SyntaxError, struct.error, ...
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        if isinstance(error, Image.DecompressionBombError):
            reason = f"more than {MOST_PIXELS:,} pixels; reduce it"
        raise Unreadable([f"{printable(name)}: {printable(reason)}"]) from None


def _too_large(width: int, height: int, limit: int) -> str:
    needed = math.ceil(width * height / 1_000_000)
    advice = f"set --data.max_megapixels {needed}, or reduce it" if width * height <= MOST_PIXELS else "reduce it"
    return f"{width} x {height} pixels exceed the limit of {limit:,}; {advice}"


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


def to_rgb(image: Image.Image, how: Conversion, is_deep: bool) -> tuple[Image.Image, str]:
    """(an image in RGB, upright if it is a JPEG that was opened; see Decoded.converted)"""
    from PIL import Image, ImageOps

    image.load()
    if image.format == "JPEG" and ("exif" in image.info or "xmp" in image.info):  # these contain its orientation
        ImageOps.exif_transpose(image, in_place=True)
    eight_bit = _eight_bit(image, how.max_value)
    if is_deep and eight_bit is image and how.max_value != MAX_VALUE:
        raise ValueError(f"16 bits per channel in {image.mode}: max_value applies to grayscale files only")
    converted = f" from 0 .. {how.max_value}" if is_deep and how.max_value != MAX_VALUE else ""
    if not eight_bit.has_transparency_data:
        return eight_bit if eight_bit.mode == "RGB" else eight_bit.convert("RGB"), converted
    shown = eight_bit.convert("RGBA")
    if np.asarray(shown)[..., 3].min() < 255 and how.background != FIRST.background:
        converted += f" over {how.background}"
    behind = Image.new("RGBA", shown.size, how.background)
    return Image.alpha_composite(behind, shown).convert("RGB"), converted


def _cut_jpeg(content: bytes, frame: Frame, share: Share, orientation: int) -> np.ndarray:
    """As `Frame.cut_share`, for a JPEG file decoded at full scale, within one gray level; torchvision needs half of the
    time."""
    whole = whole_jpeg(content)
    whole = whole.transpose(1, 2) if orientation in _SIDEWAYS else whole
    whole = whole.flip(_FLIPS[orientation]) if orientation in _FLIPS else whole
    left, top, right, bottom = in_pixels(share, (whole.shape[2], whole.shape[1]))
    return resized_part(whole[:, top:bottom, left:right], frame)


def whole_jpeg(content: bytes) -> torch.Tensor:
    """A JPEG file as uint8 [3, H, W], in its stored orientation. Raises RuntimeError."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    raw = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    whole: torch.Tensor = decode_jpeg(raw, mode=ImageReadMode.RGB, apply_exif_orientation=False)
    return whole


def resized_part(part: torch.Tensor, frame: Frame) -> np.ndarray:
    """A part uint8 [3, h, w] of an image, resized to the height and width of the frame, uint8 [H, W, 3]."""
    import torch
    from torch.nn.functional import interpolate

    # channels last, as the decoder writes them, is several times faster and gives the same bits
    part = part[None].contiguous(memory_format=torch.channels_last)
    mode = "nearest-exact" if frame.interpolation == "nearest" else frame.interpolation
    made = interpolate(part, (frame.height, frame.width), mode=mode, antialias=mode != "nearest-exact")
    return made[0].permute(1, 2, 0).contiguous().numpy()


def deep(image: Image.Image) -> bool:
    """Whether the file of an image that is not loaded yet has 16 bits per channel."""
    return image.mode.startswith("I") or any(_packs_16_bits(tile[3]) for tile in getattr(image, "tile", ()))


def _packs_16_bits(packing: Any) -> bool:
    """Whether the arguments of a Pillow decoder mean 16 bits per channel; BGR;16 means 16 bits for three channels."""
    raw_mode = str(packing[0] if isinstance(packing, tuple) and packing else packing)
    return ";16" in raw_mode and not raw_mode.startswith("BGR")


def _eight_bit(image: Image.Image, max_value: int) -> Image.Image:
    """Convert 16-bit grayscale to 8 bits, by default by its high byte, as Pillow does for 16-bit color; Pillow would
    clip it. Other images are returned as they are."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels are not supported; convert the file to 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = sixteen_bit(image)
    gray = Image.fromarray((np.minimum(values, max_value) * 256 // (max_value + 1)).astype(np.uint8))
    clear = image.info.get("transparency")  # the value of transparent pixels
    if not isinstance(clear, int):
        return gray
    return Image.merge("LA", (gray, Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))))


def sixteen_bit(image: Image.Image) -> np.ndarray:
    """The values of a 16-bit grayscale image, int64 [H, W]. Raises ValueError for 32 bits."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > MAX_VALUE:
        raise ValueError("32-bit pixels are not supported; convert the file to 8 or 16 bits")
    return values
