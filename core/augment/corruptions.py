"""The corruptions of CIFAR-10-C and ImageNet-C (Hendrycks and Dietterich 2019, section 4 and appendix B), at severities
1 to 5, for measuring a trained network on images that it was not prepared for.

The parameters are those of the authors' programs that made the two sets (github.com/hendrycks/robustness:
make_cifar_c.py and imagenet_c/corruptions.py): of CIFAR-10-C for sides below LARGE pixels, of ImageNet-C otherwise.
Lengths in pixels are proportional to the side, but for images of less than 32 pixels they stay as for 32, because a
blur of less than a pixel would change nothing. What is random depends on the key of an image alone.

They differ from the authors' in this: Gaussian noise, glass blur and zoom blur are transforms of albumentations (glass
blur exchanges all pixels at once, not one after the other); impulses, motion and snow are drawn by numpy and OpenCV,
not by scikit-image and ImageMagick; the elastic transform tilts and displaces in one step. frost takes the authors'
photographs (core/augment/frost.py). Where albumentations follows other formulas (shot noise in linear light, defocus by
whole pixels, JPEG with red and blue exchanged, other snow and fog), the paper's are used.
"""

from __future__ import annotations

import io
import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from core.augment import frost
from core.augment.albumentation import Albumentation

if TYPE_CHECKING:
    from PIL import Image

LARGE = 96  # from this side on, the parameters of ImageNet-C
SEVERITIES = (1, 2, 3, 4, 5)
# kind -> parameters at each severity of (CIFAR-10-C, ImageNet-C)
_LEVELS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),  # standard deviation
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),  # photons of a white pixel
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),  # share of the values
    "defocus_blur": (  # radius, standard deviation of the edge
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (  # standard deviation of the blur, largest distance, repetitions
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (  # half the length, standard deviation
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": (  # largest factor (excluded), step
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": (  # mean, standard deviation, zoom and threshold of flakes, half length and deviation of streaks, color
        ((0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
         (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85), (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
        ((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
         (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55)),
    ),
    "frost": (  # factors of the image and of the photograph of frost
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": (  # thickness, decay of the roughness
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),  # added to the value of HSV
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),  # factor of the distance from the mean
    "elastic_transform": (  # displacement, its standard deviation in space, shift of the corners; of the side
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        tuple((244 / 224 * a, 244 / 224 * b, 244 / 224 * c) for a, b, c in
              ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))),
    ),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),  # factor of the side
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),  # quality
}  # fmt: skip
KINDS = tuple(_LEVELS)
_STREAKS = {"motion_blur": 19, "snow": 29}  # the longest ones, in pixels, for images of 32 pixels and less
SMALLEST = 8  # side, in pixels
GRAY = (0.299, 0.587, 0.114)  # shares of red, green and blue (ITU-R BT.601)


def lacking(kind: str, side: int) -> str:
    """Why a corruption cannot be applied to images of this side, in pixels; "" if it can."""
    if side < SMALLEST:
        return f"images of {side} pixels are smaller than {SMALLEST}"
    if side < LARGE and _STREAKS.get(kind, 0) > 1.5 * side:
        return f"its streaks are up to {_STREAKS[kind]} pixels long"
    return ""


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption at one severity."""

    kind: str
    severity: int

    def __call__(self, image: np.ndarray, key: int) -> np.ndarray:
        """The corrupted image, of the shape of `image`, uint8 [H, W, 1 or 3]. key: int64, of the image."""
        large = min(image.shape[:2]) >= LARGE
        levels = _LEVELS[self.kind][large]
        scale = min(image.shape[:2]) / 224 if large else max(1.0, min(image.shape[:2]) / 32)
        philox = np.random.Generator(np.random.Philox(key & 0xFFFFFFFFFFFFFFFF))
        changed = _FUNCTIONS[self.kind](image, levels[self.severity - 1], scale, philox)
        if changed.dtype != np.uint8:
            changed = np.rint(np.clip(changed, 0, 1) * 255).astype(np.uint8)
        return changed.reshape(image.shape)


@cache
def _built(thread: int, name: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    """A transform of albumentations for one thread, because it keeps its generator."""
    return Albumentation(name=name, arguments={**dict(arguments), "p": 1.0}).transform()


def _by(name: str, image: np.ndarray, chance: np.random.Generator, **arguments: Any) -> np.ndarray:
    """The image after a transform of albumentations, whose random numbers are those of chance."""
    transform = _built(threading.get_ident(), name, tuple(arguments.items()))
    transform.set_random_state(chance, random.Random(int(chance.integers(2**63))))
    changed: np.ndarray = transform(image=image)["image"]
    return changed


def _gaussian_noise(image: np.ndarray, std: float, scale: float, chance: np.random.Generator) -> np.ndarray:
    return _by("GaussNoise", image, chance, std_range=(std, std))


def _shot_noise(image: np.ndarray, photons: float, scale: float, chance: np.random.Generator) -> np.ndarray:
    return chance.poisson(image / 255 * photons) / photons


def _impulse_noise(image: np.ndarray, share: float, scale: float, chance: np.random.Generator) -> np.ndarray:
    drawn = chance.random(image.shape)
    return np.where(drawn < share, np.where(drawn < share / 2, 0, 255), image).astype(np.uint8)


def _defocus_blur(image: np.ndarray, level: Any, scale: float, chance: np.random.Generator) -> np.ndarray:
    import cv2

    radius, edge = level[0] * scale, level[1]
    reach = np.arange(-math.ceil(max(8, radius)), math.ceil(max(8, radius)) + 1)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.float32)
    width = 3 if radius <= 8 else 5
    return _filtered(image / 255, cv2.GaussianBlur(disk / disk.sum(), (width, width), edge))


def _glass_blur(image: np.ndarray, level: Any, scale: float, chance: np.random.Generator) -> np.ndarray:
    sigma, distance, times = level[0] * scale, max(1, round(level[1] * scale)), level[2]
    return _by("GlassBlur", image, chance, sigma=sigma, max_delta=distance, iterations=times, mode="fast")


def _motion_blur(image: np.ndarray, level: Any, scale: float, chance: np.random.Generator) -> np.ndarray:
    return _streaked(image / 255, level[0] * scale, level[1] * scale, chance.uniform(-45, 45))


def _zoom_blur(image: np.ndarray, level: Any, scale: float, chance: np.random.Generator) -> np.ndarray:
    most, step = level
    return _by("ZoomBlur", image, chance, max_factor=(most, most), step_factor=(step, step))


def _snow(image: np.ndarray, level: Any, scale: float, chance: np.random.Generator) -> np.ndarray:
    import cv2

    mean, std, zoom, threshold, length, sigma, color = level
    height, width = image.shape[:2]
    flakes = chance.normal(mean, std, (math.ceil(height / zoom), math.ceil(width / zoom)))
    larger = np.asarray(cv2.resize(flakes, (width, height), interpolation=cv2.INTER_LINEAR))[..., None]
    layer = _streaked(
        np.where(larger < threshold, 0, larger.clip(0, 1)), length * scale, sigma * scale, chance.uniform(-135, -45)
    )
    shown = image / 255
    gray = shown @ (GRAY if image.shape[2] == 3 else (1.0,))
    white = np.maximum(shown, gray[..., None] * 1.5 + 0.5)
    snowed: np.ndarray = color * shown + (1 - color) * white + layer + np.rot90(layer, 2)
    return snowed


def _frost(image: np.ndarray, level: Any, scale: float, chance: np.random.Generator) -> np.ndarray:
    height, width, channels = image.shape
    shrunk = scale if min(height, width) >= LARGE else 0.2 * scale  # as for CIFAR-10-C
    photograph = frost.drawn(height, width, shrunk, chance) / 255
    if channels == 1:
        photograph = (photograph @ GRAY)[..., None]
    frosted: np.ndarray = level[0] * image / 255 + level[1] * photograph
    return frosted


def _fog(image: np.ndarray, level: Any, scale: float, chance: np.random.Generator) -> np.ndarray:
    thickness, decay = level
    shown = image / 255
    height, width = image.shape[:2]
    cloud = _plasma(max(height, width), decay, chance)[:height, :width, None]
    brightest = shown.max()
    hidden: np.ndarray = (shown + thickness * cloud) * brightest / (brightest + thickness)
    return hidden


def _brightness(image: np.ndarray, added: float, scale: float, chance: np.random.Generator) -> np.ndarray:
    """Hue and saturation stay as long as all channels are multiplied by one factor."""
    value = image.max(axis=2, keepdims=True) / 255
    brighter = np.minimum(value + added, 1)
    made: np.ndarray = np.where(value > 0, image / 255 * brighter / np.where(value > 0, value, 1), brighter)
    return made


def _contrast(image: np.ndarray, factor: float, scale: float, chance: np.random.Generator) -> np.ndarray:
    mean = image.mean(axis=(0, 1)) / 255
    flatter: np.ndarray = (image / 255 - mean) * factor + mean
    return flatter


def _elastic_transform(image: np.ndarray, level: Any, scale: float, chance: np.random.Generator) -> np.ndarray:
    import cv2

    height, width = image.shape[:2]
    side = min(height, width)
    displacement, sigma, shift = (part * side for part in level)
    middle, third = np.array([width // 2, height // 2]), side // 3
    corners = np.array([middle + third, middle + np.array([third, -third]), middle - third], np.float32)
    moved = corners + chance.uniform(-shift, shift, corners.shape).astype(np.float32)
    inverse = cv2.getAffineTransform(moved, corners)
    places = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))]).astype(np.float32)
    if displacement:
        noise = [cv2.GaussianBlur(chance.uniform(-1, 1, (height, width)), (0, 0), sigma) for _ in range(2)]
        places[:2] += displacement * np.stack(noise)
    x, y = np.einsum("ij,jhw->ihw", inverse, places).astype(np.float32)
    return cv2.remap((image / 255).astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _pixelate(image: np.ndarray, factor: float, scale: float, chance: np.random.Generator) -> np.ndarray:
    from PIL.Image import Resampling

    picture = _picture(image)
    small = picture.resize((int(picture.width * factor), int(picture.height * factor)), Resampling.BOX)
    return np.asarray(small.resize(picture.size, Resampling.BOX))


def _jpeg_compression(image: np.ndarray, quality: int, scale: float, chance: np.random.Generator) -> np.ndarray:
    from PIL import Image

    stream = io.BytesIO()
    _picture(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream, formats=["JPEG"]))


def _picture(image: np.ndarray) -> Image.Image:
    from PIL import Image

    return Image.fromarray(image if image.shape[2] == 3 else image[..., 0])


def _filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    import cv2

    blurred: np.ndarray = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(image.shape)


def _streaked(image: np.ndarray, half: float, sigma: float, degrees: float) -> np.ndarray:
    """The image float [H, W, C] smeared to one side along a line, by half of a Gaussian."""
    length = 2 * round(half) + 1
    weights = np.exp(-(np.arange(length) ** 2) / (2 * sigma**2))
    steps = np.arange(length)[:, None] * (math.sin(math.radians(degrees)), math.cos(math.radians(degrees)))
    kernel = np.zeros((2 * length + 1, 2 * length + 1))
    np.add.at(kernel, tuple((np.rint(steps).astype(int) + length).T), weights / weights.sum())
    return _filtered(image, kernel)


def _plasma(least: int, decay: float, chance: np.random.Generator) -> np.ndarray:
    """A plasma fractal by the diamond-square algorithm (Fournier et al. 1982) on a torus, float [n, n] in 0..1; n is a
    power of two, and at least `least`."""
    size = 1 << max(1, (least - 1).bit_length())
    points, step, roughness = np.zeros((size, size)), size, 1.0
    while step >= 2:
        half = step // 2
        grid = points[::step, ::step]
        around = grid + np.roll(grid, -1, 0) + np.roll(grid, -1, 1) + np.roll(grid, -1, (0, 1))
        points[half::step, half::step] = around / 4 + roughness**2 * chance.uniform(-1, 1, grid.shape)
        grid, centers = points[::step, ::step], points[half::step, half::step]
        beside = grid + np.roll(grid, -1, 1) + centers + np.roll(centers, 1, 0)
        points[::step, half::step] = beside / 4 + roughness**2 * chance.uniform(-1, 1, grid.shape)
        below = grid + np.roll(grid, -1, 0) + centers + np.roll(centers, 1, 1)
        points[half::step, ::step] = below / 4 + roughness**2 * chance.uniform(-1, 1, grid.shape)
        step, roughness = half, roughness / decay
    points -= points.min()
    plasma: np.ndarray = points / points.max()
    return plasma


_FUNCTIONS: dict[str, Callable[[np.ndarray, Any, float, np.random.Generator], np.ndarray]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
