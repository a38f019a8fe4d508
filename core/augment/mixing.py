"""Mixup and CutMix. An image is mixed with its neighbor (i xor 1) in the batch; shuffling makes the pairs random."""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from core import keys as K
from core.augment.base import BatchStep
from core.augment.geometry import box


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
