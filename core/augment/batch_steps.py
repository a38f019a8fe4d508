"""Augmentations of a batch: crop, flip, translation, cutout, erasing, mixup and CutMix; random choices are functions of
the sample keys."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PrivateAttr

from core import randomness as K
from core.augment.base import BatchStep, FractionRange, Range
from core.augment.geometry import mirrored, shifted
from core.context import Clock, Context

if TYPE_CHECKING:
    from core.loading.batches import Batch


class RandomCrop(BatchStep):
    """Pad each side, then crop to the original size at a random location (He et al. 2016, section 4.2).

    The padding is the mean color, or a reflection of the image (Zagoruyko and Komodakis 2016, section 3).
    """

    padding: int = Field(4, ge=1, description="padding on each side, in pixels")
    reflect: bool = Field(False, description="pad with a reflection of the image instead of the mean color")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = images.shape[2:]
        if self.padding >= min(height, width):
            raise ValueError(f"padding {self.padding} must be smaller than both sides of the {height}x{width} images")
        offsets = 2 * self.padding + 1
        down, right = K.integers(keys, "crop down", offsets), K.integers(keys, "crop right", offsets)
        mode = "reflect" if self.reflect else "constant"
        return shifted(images, (self.padding, self.padding), down, right, mode), targets


class HorizontalFlip(BatchStep):
    """Flip images horizontally with probability p (Krizhevsky et al. 2012, section 4.1)."""

    p: float = Field(0.5, ge=0, le=1, description="probability of flipping an image")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        flipped = K.uniform(keys, "horizontal flip") < self.p
        return mirrored(images, flipped), targets


class AlternatingFlip(BatchStep):
    """Mirror half of the images in the first epoch, the other half in the next, and so on (Jordan 2024, section 3.6).

    Every pair of epochs so shows each image [C, H, W] from both sides. Which half is first depends on the seed. What
    sampling repeats in an epoch is from its second time on mirrored at random.
    """

    _seed: int = PrivateAttr(0)

    def build(self, context: Context) -> AlternatingFlip:
        """It, knowing the seed."""
        built = self.model_copy()
        built._seed = context.seed
        return built

    def apply(self, batch: Batch, classes: int, clock: Clock) -> Batch:
        first = K.first_times(self._seed, clock.epoch, batch.keys, batch.index)
        turns = K.alternating(self._seed, "alternating flip", clock.epoch, batch.index)
        chance = K.integers(batch.keys, "alternating flip", 2)
        return batch._replace(images=self(batch.images, batch.targets, turns.where(first, chance), classes)[0])

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """keys: int64 [N], odd for what is to be mirrored."""
        return mirrored(images, (keys & 1).bool()), targets


class Translate(BatchStep):
    """Translate images [N, C, H, W] by a random integer number of pixels in both directions (Simard et al. 2003,
    section 2). The area uncovered is filled with the mean color."""

    fraction: float = Field(0.125, gt=0, lt=1, description="maximum translation as a fraction of height and of width")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = images.shape[2:]
        most_down, most_right = int(self.fraction * height), int(self.fraction * width)
        down = K.integers(keys, "translate down", 2 * most_down + 1)
        right = K.integers(keys, "translate right", 2 * most_right + 1)
        return shifted(images, (most_down, most_right), 2 * most_down - down, 2 * most_right - right), targets


class Cutout(BatchStep):
    """Fill a square at a random location with the mean color (DeVries and Taylor 2017).

    The center of the square is uniform over the image, so that part of the square may lie outside it.
    """

    size: int = Field(8, ge=1, description="side length of the square, in pixels")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = images.shape[2:]
        if self.size > min(height, width):
            raise ValueError(f"size {self.size}: the square is larger than the {height}x{width} images")
        top = K.integers(keys, "cutout down", height) - self.size // 2
        left = K.integers(keys, "cutout right", width) - self.size // 2
        return torch.where(box(images, top, left, top + self.size, left + self.size), 0.0, images), targets


class RandomErasing(BatchStep):
    """Erase a rectangle of random area and aspect ratio in each image [C, H, W] (Zhong et al. 2020, algorithm 1).

    The aspect ratio is log-uniform. A side longer than that of the image is clipped to it, where the paper samples
    again.
    """

    p: float = Field(0.5, ge=0, le=1, description="probability of erasing a rectangle of an image")
    scale: FractionRange = Field(
        (0.02, 0.4), description="minimum and maximum area of the rectangle as a fraction of the image area"
    )
    ratio: Range = Field(
        (0.3, 1 / 0.3), description="minimum and maximum aspect ratio (height / width) of the rectangle"
    )
    fill: Literal["mean", "noise"] = Field(
        "mean",
        description="fill values. mean: the mean color; noise: uniform noise with mean 0 and standard deviation 1",
    )

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = images.shape[2:]
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * K.uniform(keys, "erasing area")
        aspect = self.ratio[0] * (self.ratio[1] / self.ratio[0]) ** K.uniform(keys, "erasing aspect")
        tall = (height * width * area * aspect).sqrt().round().long().clamp(1, height)
        wide = (height * width * area / aspect).sqrt().round().long().clamp(1, width)
        top = (K.uniform(keys, "erasing down") * (height - tall + 1)).long()
        left = (K.uniform(keys, "erasing right") * (width - wide + 1)).long()
        chosen = (K.uniform(keys, "erasing p") < self.p)[:, None, None, None]
        erased = box(images, top, left, top + tall, left + wide) & chosen
        if self.fill == "mean":
            return torch.where(erased, 0.0, images), targets
        return torch.where(erased, _noise(images, keys), images), targets


def _noise(images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Independent noise for each element, uniform on [-sqrt(3), sqrt(3)]: mean 0, standard deviation 1."""
    places = torch.arange(images[0].numel(), device=images.device)
    drawn = K.uniform(K.fold(keys[:, None], places), "erasing noise").view(images.permute(0, 2, 3, 1).shape)
    return ((2 * drawn - 1) * 3**0.5).to(images.dtype).permute(0, 3, 1, 2)


def box(
    images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, bottom: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """bool [N, 1, H, W], True where top <= row < bottom and left <= column < right (each [N])."""
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    down = (rows >= top[:, None]) & (rows < bottom[:, None])
    across = (columns >= left[:, None]) & (columns < right[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]


class Mixup(BatchStep):
    """Mixup (Zhang et al. 2018): images and targets become lam * x + (1 - lam) * neighbor.

    lam ~ Beta(alpha, alpha) is sampled per image.
    """

    multi_label: ClassVar[bool] = False  # multi-label targets are 0 or 1, and mixing gives values in between

    alpha: float = Field(
        0.2, gt=0, description="parameter of the Beta(alpha, alpha) distribution of the mixing coefficient"
    )
    p: float = Field(1.0, ge=0, le=1, description="probability of mixing an image")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lam = torch.where(K.uniform(keys, "mixup p") < self.p, _beta(keys, "mixup", self.alpha), 1.0)
        partner = neighbors(keys)
        weight = lam[:, None, None, None].to(images.dtype)
        return torch.lerp(images[partner], images, weight), _mixed(targets, partner, lam, classes)


class CutMix(BatchStep):
    """CutMix (Yun et al. 2019): a random box of the image is replaced by that of its neighbor, targets mixed by area.

    The box covers 1 - lam of the image area before it is clipped to the image; lam ~ Beta(alpha, alpha) is sampled per
    image.
    """

    multi_label: ClassVar[bool] = False

    alpha: float = Field(
        1.0, gt=0, description="parameter of the Beta(alpha, alpha) distribution of the mixing coefficient"
    )
    p: float = Field(1.0, ge=0, le=1, description="probability of mixing an image")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lam = torch.where(K.uniform(keys, "cutmix p") < self.p, _beta(keys, "cutmix", self.alpha), 1.0)
        height, width = images.shape[2:]
        side = (1 - lam).sqrt()
        tall, wide = (side * height).long(), (side * width).long()
        top = K.integers(keys, "cutmix down", height) - tall // 2
        left = K.integers(keys, "cutmix right", width) - wide // 2
        pasted = box(images, top, left, top + tall, left + wide)
        partner = neighbors(keys)
        kept = 1 - pasted.float().mean(dim=(1, 2, 3))
        return torch.where(pasted, images[partner], images), _mixed(targets, partner, kept, classes)


def neighbors(keys: torch.Tensor) -> torch.Tensor:
    """Index of each sample's neighbor, i xor 1, int64 [N]; in an odd batch the last sample is its own neighbor."""
    index = torch.arange(len(keys), device=keys.device)
    partner = index ^ 1
    return torch.where(partner < len(keys), partner, index)


def _mixed(targets: torch.Tensor, partner: torch.Tensor, share: torch.Tensor, classes: int) -> torch.Tensor:
    """Mixed targets, float [N, C]: `share`, [N], of the sample's own target, the rest of the partner's."""
    soft = targets if targets.is_floating_point() else F.one_hot(targets, classes).float()
    return torch.lerp(soft[partner], soft, share[:, None])


def _beta(keys: torch.Tensor, purpose: str, alpha: float) -> torch.Tensor:
    """Samples of Beta(alpha, alpha), shape of keys: an interpolated quantile function of uniform random numbers."""
    u = K.uniform(keys, purpose)
    if alpha == 1:
        return u
    table = _quantiles(alpha, keys.device)
    place = u * (len(table) - 1)
    below = place.long()
    return torch.lerp(table[below], table[below + 1], place - below)


@functools.cache
def _quantiles(alpha: float, device: torch.device) -> torch.Tensor:
    from scipy.stats import beta

    return torch.tensor(beta.ppf(np.linspace(0, 1, 4097), alpha, alpha), dtype=torch.float32, device=device)
