"""The photographs of frost with which ImageNet-C and CIFAR-10-C are made (Hendrycks and Dietterich 2019).

They are files of the authors' in the Python package imagecorruptions, of which nothing else is used: its wheel is read
as the ZIP archive that it is, because installing it would bring a second OpenCV.
"""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from core.common import paths

NAME = "imagecorruptions-1.1.2-py3-none-any.whl"
URL = (
    f"https://files.pythonhosted.org/packages/3e/40/ff4a79ad7ab6463fe2fde7912b71084a6606e33676078a50b40a3377112b/{NAME}"
)
SHA256 = "d0e4bf529ba6fbb27d8aba1bde7c5db43bf2b969b2c767c11419e939e3e365b8"
# the authors draw one of five, although there is a sixth
_FILES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")


def wheel() -> Path:
    """Where the wheel is kept; data/predict/corrupted.py downloads it."""
    return paths.store() / "frost" / NAME


def drawn(height: int, width: int, factor: float, chance: np.random.Generator) -> np.ndarray:
    """A random part of one of the photographs, uint8 [height, width, 3].

    factor: of the photograph's size; it is larger where the part would not fit otherwise. Raises OSError if the wheel
    is missing.
    """
    import cv2

    photograph = _photographs(wheel())[chance.integers(len(_FILES))]
    factor = max(factor, height / photograph.shape[0], width / photograph.shape[1])
    size = [max(least, round(side * factor)) for side, least in zip(photograph.shape, (height, width), strict=False)]
    scaled = cv2.resize(photograph, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    top, left = chance.integers(size[0] - height + 1), chance.integers(size[1] - width + 1)
    part: np.ndarray = scaled[top : top + height, left : left + width]
    return part


@cache
def _photographs(path: Path) -> tuple[np.ndarray, ...]:
    from PIL import Image

    with zipfile.ZipFile(path) as archive:
        opened = [Image.open(archive.open(f"imagecorruptions/frost/{name}")) for name in _FILES]
        return tuple(np.asarray(image.convert("RGB")) for image in opened)
