"""Items (image, target) of data sets of others, converted to uint8 [H, W, C] and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.common.errors import DataError
from data.reading.decode import AS_DECLARED, deep, fitted, to_rgb, with_channels
from data.reading.frame import Frame
from data.reading.progress import printable

POLICY = "items 1: palettes to RGB, transparency over white, 16 bit by its high byte, floats of 0 to 1 times 255"
Label = int | tuple[int, ...]


@dataclass(frozen=True)
class Form:
    """What images are converted to: uint8 [height, width, channels] of the frame.

    as_they_come: images must have this size already; otherwise, the frame is cut from them. assumed: the channels were
    seen on the first images, and not declared.
    """

    frame: Frame
    channels: int
    as_they_come: bool
    assumed: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.frame.height, self.frame.width, self.channels

    @property
    def policy(self) -> str:
        """How images are converted, in words; part of the key of a cache."""
        size = f"{self.frame.width} x {self.frame.height}, as they come" if self.as_they_come else self.frame.policy
        return f"{POLICY}; {size}; {self.channels} channels"

    def of(self, image: Any, name: str) -> np.ndarray:
        """An image as uint8 [height, width, channels]. Raises DataError, with this name."""
        pixels = pixels_of(image, name)
        if self.assumed and pixels.shape[2] > self.channels:
            raise DataError([f"{name}: the image has colors, those before are gray; set --data.channels 3"])
        if self.as_they_come and pixels.shape[:2] != self.shape[:2]:
            sizes = [f"{one.shape[0]}x{one.shape[1]}" for one in (pixels, np.empty(self.shape))]
            raise DataError([f"{name}: the image has {sizes[0]} pixels, the first one {sizes[1]}; set --data.size"])
        if not self.as_they_come:
            pixels = fitted(pixels, self.frame)[0]
        return with_channels(pixels, self.channels)


def pair_of(item: Any, name: str) -> tuple[Any, Any]:
    """(image, target) of an item. Raises DataError."""
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    what = f"{described(item)} of {len(item)}" if isinstance(item, tuple | list | Mapping) else described(item)
    raise DataError([f"{name} is {what}; an item must be a pair (image, target)"])


def pixels_of(image: Any, name: str) -> np.ndarray:
    """An image of Pillow, an array or a tensor as uint8 [H, W, 1 or 3]. Raises DataError for what is none."""
    from PIL import Image

    if isinstance(image, Image.Image):
        try:
            if image.mode == "RGB":
                return np.array(image)
            made = np.array(to_rgb(image, AS_DECLARED, deep(image))[0])
            return made[..., :1] if image.mode in ("1", "L") or image.mode.startswith("I") else made
        except Exception as error:  # as of files: Pillow raises nearly any exception
            raise DataError([f"{name}: {printable(str(error) or type(error).__name__)}"]) from None
    array = _array(image)
    if array is None:
        expected = "an image of Pillow, an array or a tensor"
        raise DataError([f"{name}: the image is {described(image)}; {expected} is expected"])
    pixels = _channels_last(array, first=not isinstance(image, np.ndarray))
    if pixels is None or not pixels.size:
        advice = "; give a Dataset, not a DataLoader, whose items are batches" if array.ndim == 4 else ""
        expected = "[H, W], [H, W, 1 or 3] or [1 or 3, H, W]"
        raise DataError([f"{name}: the image is {described(image)}; {expected} is expected{advice}"])
    return _eight_bit(pixels, name)


def label_of(target: Any, name: str) -> Label:
    """A target as a label, or the 0 and 1 of a multi-label image. Raises DataError."""
    array = np.asarray(target) if isinstance(target, list | tuple) else _array(target)
    if isinstance(target, int | np.integer) or (array is not None and array.size == 1 and array.dtype.kind in "iub"):
        return int(target if array is None else array.reshape(())[()])
    if array is not None and array.ndim == 1 and array.dtype.kind in "iubf" and np.isin(array, (0, 1)).all():
        return tuple(array.astype(int).tolist())
    shown = printable(str(target))[:80]
    expected = "an integer, or one 0 or 1 for each label, is expected"
    raise DataError([f"{name}: the target is {described(target)}, {shown}; {expected}"])


def wrong_labels(labels: Sequence[Label], names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """An error line for each label that is not one of these classes, or not of the kind of the first one."""
    multi = [isinstance(label, tuple) for label in labels]
    lines = []
    for label, name, several in zip(labels, names, multi, strict=True):
        if several != multi[0]:
            lines.append(f"{name}: the target is {'multi-label' if several else 'one class'}, that of the first is not")
        elif isinstance(label, tuple):
            if len(label) != len(classes):
                lines.append(
                    f"{name}: the target has {len(label)} labels, and there are {len(classes)} names of labels"
                )
        elif not 0 <= label < len(classes):
            lines.append(f"{name}: label {label} is outside 0 .. {len(classes) - 1}; labels are indices of classes")
    return lines


def described(value: Any) -> str:
    """What a value is, for a message: its type and, of arrays, their shape."""
    array = _array(value)
    if array is None:
        return f"of type {type(value).__name__}"
    return f"{type(value).__name__} {str(value.dtype).removeprefix('torch.')} {list(array.shape)}"


def _array(value: Any) -> np.ndarray | None:
    """An array or a tensor as an array; None for anything else."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if hasattr(value, "detach"):  # a tensor, without importing torch for data that have none
        return value.detach().cpu().numpy()  # type: ignore[no-any-return]
    return None


def _channels_last(array: np.ndarray, first: bool) -> np.ndarray | None:
    """An array as [H, W, 1 or 3]; None if its shape is another one. first: which of two possible orders is meant."""
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3:
        return None
    moved = np.moveaxis(array, 0, -1)
    return next((one for one in ((moved, array) if first else (array, moved)) if one.shape[2] in (1, 3)), None)


def _eight_bit(pixels: np.ndarray, name: str) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    low, high = pixels.min(), pixels.max()
    if pixels.dtype.kind != "f" or not (low >= 0 and high <= 1):
        advice = "leave the normalization out of its transform: it is declared with --normalize" if low < 0 else ""
        advice = advice or "give uint8, or floats of 0 to 1"
        raise DataError([f"{name}: the image is {pixels.dtype} with values of {low:g} to {high:g}; {advice}"])
    rounded: np.ndarray = np.rint(pixels * 255).astype(np.uint8)
    return rounded
