"""Frame: the part of an image that is kept, and the size to which it is resized. The same for training, prediction and
export, whose script repeats it (core/export/predict.py.jinja)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

if TYPE_CHECKING:
    from PIL import Image

LEAST, MOST = 8, 4096  # pixels of a side
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
        wide = min(image.width, max(1, round(image.height * self.width / self.height)))
        tall = min(image.height, max(1, round(image.width * self.height / self.width)))
        left, top = (image.width - wide) // 2, (image.height - tall) // 2
        return self._resized(image.crop((left, top, left + wide, top + tall)))

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


def in_pixels(share: Share, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels of a share of an image of (width, height)."""
    left, top, right, bottom = (round(part * size[at % 2]) for at, part in enumerate(share))
    return left, top, max(right, left + 1), max(bottom, top + 1)
