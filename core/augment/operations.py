"""The image operations of AutoAugment and its successors, and the strength of each at a magnitude level.

They are pure functions of pixels, computed with Pillow, with which the papers define them (Cubuk et al. 2019, table 6).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

LEVELS = 31  # magnitude levels 0 .. 30 of RandAugment and TrivialAugment
POLICY_LEVELS = 10  # magnitude levels 0 .. 9 of AutoAugment's policies
SIGNED = frozenset("shear_x shear_y translate_x translate_y rotate brightness color contrast sharpness".split())
OPERATIONS = (*sorted(SIGNED), "posterize", "solarize", "auto_contrast", "equalize", "identity")  # without invert


def strength(name: str, level: float, shape: tuple[int, ...], wide: bool = False) -> float:
    """The unsigned argument of an operation at a magnitude level, for images of shape (height, width, ...).

    level: from 0 to 1, the position in the operation's range.  wide: use TrivialAugment's ranges (Müller and Hutter
    2021, table 7) instead of AutoAugment's.

    Units: shear in pixels per pixel, translation in pixels, rotation in degrees; posterize, the number of bits kept;
    solarize, the gray value from which pixels are inverted; enhancements, the difference of the factor from 1.
    """
    if name.startswith("shear"):
        return (0.99 if wide else 0.3) * level
    if name.startswith("translate"):
        side = shape[1] if name == "translate_x" else shape[0]
        return (32 if wide else 150 / 331 * side) * level
    if name == "rotate":
        return (135 if wide else 30) * level
    if name == "posterize":
        return 8 - round((6 if wide else 4) * level)
    if name == "solarize":
        return 255 * (1 - level)
    return (0.99 if wide else 0.9) * level


def operate(image: np.ndarray, name: str, value: float, fill: int = 0) -> np.ndarray:
    """Apply an operation to an image, uint8 [H, W, 1 or 3].  fill: gray level of pixels from outside the image.

    Raises ValueError for any other number of channels.
    """
    from PIL import Image

    if image.shape[2] not in (1, 3):
        raise ValueError(f"augment: {name} expects images of 1 or 3 channels, not {image.shape[2]}")
    gray = image.shape[2] == 1
    picture = Image.fromarray(image[:, :, 0] if gray else image)
    changed = np.asarray(_ACTIONS[name](picture, value, fill if gray else (fill,) * 3))
    return np.ascontiguousarray(changed[:, :, None] if gray else changed)


def _affine(matrix: Callable[[float], tuple[float, ...]]) -> Callable[[Any, float, Any], Any]:
    def act(picture: Any, value: float, fill: Any) -> Any:
        from PIL import Image

        return picture.transform(picture.size, Image.Transform.AFFINE, matrix(value), fillcolor=fill)

    return act


def _enhance(kind: str) -> Callable[[Any, float, Any], Any]:
    def act(picture: Any, value: float, fill: Any) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, kind)(picture).enhance(1 + value)

    return act


def _posterize(picture: Any, value: float, fill: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.posterize(picture, int(value))


def _solarize(picture: Any, value: float, fill: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.solarize(picture, value)  # type: ignore[arg-type]


def _plain(name: str) -> Callable[[Any, float, Any], Any]:
    def act(picture: Any, value: float, fill: Any) -> Any:
        from PIL import ImageOps

        return getattr(ImageOps, name)(picture)

    return act


_ACTIONS: dict[str, Callable[[Any, float, Any], Any]] = {
    "identity": lambda picture, value, fill: picture,
    "shear_x": _affine(lambda value: (1, value, 0, 0, 1, 0)),
    "shear_y": _affine(lambda value: (1, 0, 0, value, 1, 0)),
    "translate_x": _affine(lambda value: (1, 0, -int(value), 0, 1, 0)),
    "translate_y": _affine(lambda value: (1, 0, 0, 0, 1, -int(value))),
    "rotate": lambda picture, value, fill: picture.rotate(value, fillcolor=fill),
    "brightness": _enhance("Brightness"),
    "color": _enhance("Color"),
    "contrast": _enhance("Contrast"),
    "sharpness": _enhance("Sharpness"),
    "posterize": _posterize,
    "solarize": _solarize,
    "auto_contrast": _plain("autocontrast"),
    "equalize": _plain("equalize"),
    "invert": _plain("invert"),
}
