"""Frame: the part of an image that is kept, and the size to which it is resized. The same for training, prediction and
export, whose script repeats it (core/export/predict.py.jinja)."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator

from core.loading.images import Box

if TYPE_CHECKING:
    from PIL import Image

LEAST, MOST = 8, 4096  # pixels of a side
QUALITY = 95  # of the JPEG files that are kept of reduced images
RAW = 16 << 10  # bytes of pixels that are kept as they are, because decoding would take longer than reading them
MOST_PIXELS = 100_000_000  # of an image that is resized as a whole

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Share = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the sides


def _declared(value: Any) -> Any:
    text = "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or not all(LEAST <= side <= MOST for side in sides):
        raise ValueError(f"should be a side of {LEAST} to {MOST} pixels, or two, HEIGHTxWIDTH, such as 32x64")
    return sides[0] if len(set(sides)) == 1 else text


Size = Annotated[str | int, BeforeValidator(_declared)]  # of the images of a data set: 64, or "32x64"


def sides(size: str | int) -> tuple[int, int]:
    """(height, width) of a declared size."""
    height, _, width = str(size).partition("x")
    return int(height), int(width or height)


@dataclass(frozen=True)
class Frame:
    """The largest centered area of the shape height x width, resized to it.

    resize_size: the shorter side of the image is resized to this length instead, and the center of height x width is
    kept, as torchvision's presets of weights do (Resize and CenterCrop).
    """

    height: int
    width: int
    interpolation: Interpolation = "bilinear"
    resize_size: int | None = None

    @classmethod
    def of(cls, size: int | Frame) -> Frame:
        """A square frame of this size; a frame as it is."""
        return size if isinstance(size, Frame) else cls(size, size)

    @property
    def policy(self) -> str:
        """What becomes of an image, in words; part of the key of a cache."""
        if self.resize_size:
            part = f"the center, after the shorter side is resized to {self.resize_size}"
        else:
            part = "the largest centered " + ("square" if self.height == self.width else "area of this shape")
        smooth = "" if self.interpolation == "nearest" else ", antialiased"
        return f"{self.width} x {self.height}, {part}, {self.interpolation}{smooth}"

    @property
    def ample(self) -> int:
        """Shorter side of a JPEG in pixels that may be decoded at a smaller scale without a visible difference."""
        return 4 * max(self.height, self.width, self.resize_size or 0)

    def cut(self, image: Image.Image) -> Image.Image:
        """The frame of an upright RGB image."""
        if self.resize_size:
            return self._center(image)
        if image.size == (self.width, self.height):
            return image
        top, left, tall, wide = self.centered(image.height, image.width)
        return self._resized(image.crop((left, top, left + wide, top + tall)))

    def centered(self, height: int, width: int) -> Box:
        """The largest centered area of the frame's shape in an image of this size."""
        wide = min(width, max(1, round(height * self.width / self.height)))
        tall = min(height, max(1, round(width * self.height / self.width)))
        return (height - tall) // 2, (width - wide) // 2, tall, wide

    def cut_share(self, image: Image.Image, share: Share) -> Image.Image:
        """A share of an upright RGB image, resized to height x width."""
        return self._resized(image.crop(in_pixels(share, image.size)))

    def enough(self, share: Share) -> tuple[int, int]:
        """(width, height) of an upright image in which a share has at least height x width pixels."""
        left, top, right, bottom = share
        return math.ceil(self.width / (right - left)), math.ceil(self.height / (bottom - top))

    def _resized(self, part: Image.Image) -> Image.Image:
        # cropped before, because the box argument of resize uses pixels outside the box
        return part.resize((self.width, self.height), self._filter, reducing_gap=3.0)

    def _center(self, image: Image.Image) -> Image.Image:
        """What torchvision's Resize(resize_size) and CenterCrop leave, to the bit. Raises ValueError for a strip whose
        whole would not fit into memory."""
        assert self.resize_size
        short = min(image.size)
        wide, tall = (
            self.resize_size if side == short else int(self.resize_size * side / short) for side in image.size
        )
        if wide * tall > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too long for resize_size {self.resize_size}")
        left, top = round((wide - self.width) / 2), round((tall - self.height) / 2)
        return image.resize((wide, tall), self._filter).crop((left, top, left + self.width, top + self.height))

    @property
    def _filter(self) -> Image.Resampling:
        from PIL import Image

        return Image.Resampling[self.interpolation.upper()]


@dataclass(frozen=True)
class Reduced(Frame):
    """The whole image, reduced to what a frame and random crops of its size can use, and kept as encoded by `encoded`.

    Its largest centered area of the frame's shape has 8/7 of the frame's sides, as 256 for 224, which is customary for
    random crops (Krizhevsky et al. 2012, section 4.1), or `resize_size`. Smaller images keep their size.
    """

    @classmethod
    def to(cls, frame: Frame) -> Reduced:
        """What is kept for a frame."""
        return cls(frame.height, frame.width, frame.interpolation, frame.resize_size)

    @property
    def policy(self) -> str:
        return f"{super().policy}; of the whole reduced to {self._share:.4f} of it, JPEG {QUALITY} above {RAW} bytes"

    @property
    def ample(self) -> int:
        return math.ceil(2 * self._share * max(self.height, self.width))

    def cut(self, image: Image.Image) -> Image.Image:
        _, _, tall, wide = self.centered(image.height, image.width)
        scale = self._share * max(self.height / tall, self.width / wide)
        if scale >= 1:
            return image
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(size, self._filter, reducing_gap=3.0)

    @property
    def _share(self) -> float:
        """Sides of what is kept of the largest centered area, as a multiple of the frame's."""
        return max(8 / 7, (self.resize_size or 0) / self.height)


def encoded(pixels: np.ndarray) -> bytes:
    """An image uint8 [H, W, 3] as a JPEG file, or as a PPM file if it is small, which is not compressed."""
    from PIL import Image

    height, width, _ = pixels.shape
    if pixels.nbytes <= RAW:
        return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def in_pixels(share: Share, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels of a share of an image of (width, height)."""
    left, top, right, bottom = (round(part * size[at % 2]) for at, part in enumerate(share))
    return left, top, max(right, left + 1), max(bottom, top + 1)
