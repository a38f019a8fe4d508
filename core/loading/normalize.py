"""Image normalization by statistics of the training images, of pretrained weights, or of each image, or by numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator

from core.common.text import did_you_mean
from core.loading.batches import Batch
from core.loading.images import DECODED, Images, _first

WAYS = ("data", "imagenet", "inception", "unit", "image", "image_channels")
LEAST_DEVIATION = 1 / 255  # of a channel of an image, of pixels of 0 to 1: one gray level
NORMALISE_MEANING = (
    "mean and standard deviation used to normalize images: data, of the training images; imagenet, as expected by "
    "torchvision's weights; inception, 0.5 and 0.5, as for Inception and GoogLeNet; unit, 0 and 1, pixels of 0 to 1; "
    "image, of each image; image_channels, of each channel of each image; or numbers for each channel, MEAN/STD, such "
    "as 0.1307/0.3081 or 0.5,0.4,0.4/0.2,0.2,0.2"
)
_NUMBERS = re.compile(r"[^/]+/[^/]+")


def _known(how: str) -> str:
    if how in WAYS:
        return how
    if _NUMBERS.fullmatch(how):
        mean, std = numbers(how)
        if len(mean) == len(std) and min(std) > 0 and all(0 <= value <= 1 for value in mean):
            return how
        raise ValueError("should be MEAN/STD, of pixels of 0 to 1: as many means, 0 to 1, as positive deviations")
    raise ValueError(f"should be one of {', '.join(WAYS)}, or MEAN/STD in numbers{did_you_mean(how, WAYS)}")


def numbers(how: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The means and standard deviations of MEAN/STD. Raises ValueError."""
    try:
        mean, std = (tuple(float(value) for value in part.split(",")) for part in how.split("/"))
    except ValueError:
        raise ValueError("should be MEAN/STD in numbers, such as 0.1307/0.3081") from None
    return mean, std


Normalize = Annotated[str, AfterValidator(_known)]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training images of ImageNet (torchvision model zoo)


def statistics(how: Normalize, images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of pixels scaled to 0..1; both empty if each image is normalized by its
    own statistics. With image_channels, the mean is empty, and the deviations are lower bounds of those of an image.

    With imagenet, grayscale images use the means over the three channels. A number counts for all channels. Raises
    ValueError for other numbers of channels.
    """
    return mean_and_std(images) if how == "data" else known_statistics(how, images.shape[2])


def known_statistics(how: Normalize, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The statistics of a normalization other than data, for images of this number of channels; see `statistics`."""
    if how == "image":
        return (), ()
    if how == "image_channels":
        return (), (LEAST_DEVIATION,) * channels
    if how == "inception":
        return (0.5,) * channels, (0.5,) * channels
    if how == "unit":
        return (0.0,) * channels, (1.0,) * channels
    if how != "imagenet":
        mean, std = numbers(how)
        if len(mean) not in (1, channels):
            raise ValueError(f"normalize: {len(mean)} means for images of {channels} channels")
        return (mean * channels)[:channels], (std * channels)[:channels]
    if channels == 1:
        mean, std = ((sum(values) / 3,) for values in IMAGENET)
        return mean, std
    if channels != 3:
        raise ValueError(f"normalize: imagenet needs images of 3 channels, these have {channels}; use data or image")
    return IMAGENET


def normalizer(mean: Iterable[float], std: Iterable[float], device: torch.device) -> Callable[[Batch], Batch]:
    """Build a function that normalizes images uint8 [N, H, W, C] to float [N, C, H, W], in channels_last memory format.

    mean, std: per channel, of pixels scaled to 0..1. If both are empty, each image is normalized by the statistics over
    all of its pixels and channels, as in tf.image.per_image_standardization. If the mean alone is empty, each channel
    of an image is normalized by its own statistics, with std as the lower bound of its deviation.
    """
    mean, std = tuple(mean), tuple(std)
    if not mean and not std:
        return _standardized
    if not mean:
        return partial(_each_channel, least=255 * torch.tensor(std, device=device))
    shift = 255 * torch.tensor(mean, device=device)
    scale = 1 / (255 * torch.tensor(std, device=device))

    def normalize(batch: Batch) -> Batch:
        width = batch.images.shape[2]
        # flatten width and channels: broadcasting over a last dimension of three is several times slower on a CPU
        rows = batch.images.float().flatten(2).sub_(shift.repeat(width)).mul_(scale.repeat(width))
        return batch._replace(images=rows.view(batch.images.shape).permute(0, 3, 1, 2))

    return normalize


def _standardized(batch: Batch) -> Batch:
    pixels = batch.images.float()
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    # as in TensorFlow, a lower bound for images of one color: the deviation if a single pixel differs by 1
    least = pixels[0].numel() ** -0.5
    std = pixels.std(dim=(1, 2, 3), keepdim=True, correction=0).clamp(min=least)
    return batch._replace(images=((pixels - mean) / std).permute(0, 3, 1, 2))


def _each_channel(batch: Batch, least: torch.Tensor) -> Batch:
    """least: lower bound of the deviation of each channel, float [C], of pixels of 0 to 255."""
    pixels = batch.images.permute(0, 3, 1, 2).float()
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    std = pixels.std(dim=(2, 3), keepdim=True, correction=0)
    return batch._replace(images=(pixels - mean) / torch.maximum(std, least[:, None, None]))


def sample(images: Images, mean: Iterable[float], std: Iterable[float], count: int) -> torch.Tensor:
    """A random subset of at most `count` images, always the same, normalized: float [N, C, H, W] on the CPU."""
    few, nothing = _first(images, count), torch.empty(0)
    pixels = torch.from_numpy(np.require(few.pixels[few.rows], requirements=["C", "W"]))
    return normalizer(mean, std, pixels.device)(Batch(pixels, nothing, nothing, nothing)).images


def mean_and_std(images: Images, chunk: int = 1024) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of pixels scaled to 0..1, of all images; of a random subset of DECODED
    images if they are decoded on access. Computed from exact integer sums, so the order does not matter."""
    if not isinstance(images.pixels, np.ndarray):
        images, chunk = _first(images, DECODED), 64
    channels = images.shape[2]
    total, squares = np.zeros(channels, dtype=np.int64), np.zeros(channels, dtype=np.int64)
    for start in range(0, len(images), chunk):
        pixels = images.pixels[np.sort(images.rows[start : start + chunk])].reshape(-1, channels)
        total += pixels.sum(axis=0, dtype=np.int64)
        squares += np.square(pixels, dtype=np.uint16).sum(axis=0, dtype=np.int64)
    height, width, _ = images.shape
    count = len(images) * height * width
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return tuple((mean / 255).tolist()), tuple((np.maximum(std, 1.0) / 255).tolist())
