"""Mixup and CutMix: each image with its neighbor (i xor 1) in the batch, which the epoch's order has made random."""

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
    """lam x + (1 - lam) neighbor, for images and targets, lam ~ Beta(alpha, alpha) per image (Zhang et al. 2018)."""

    multi_label: ClassVar[bool] = False  # a share of a label is no label

    alpha: float = Field(0.2, gt=0, description="larger mixes more evenly")
    p: float = Field(1.0, ge=0, le=1, description="share of images mixed")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, keys: torch.Tensor, classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lam = torch.where(K.uniform(keys, "mixup p") < self.p, _beta(keys, "mixup", self.alpha), 1.0)
        partner = neighbors(keys)
        weight = lam[:, None, None, None].to(images.dtype)
        return torch.lerp(images[partner], images, weight), _mixed(targets, partner, lam, classes)


class CutMix(BatchStep):
    """A box of the neighbor pasted in, targets by area; the box holds 1 - lam of the image (Yun et al. 2019)."""

    multi_label: ClassVar[bool] = False

    alpha: float = Field(1.0, gt=0, description="of Beta(alpha, alpha), from which lam is drawn per image")
    p: float = Field(1.0, ge=0, le=1, description="share of images mixed")

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
    """int64 [N]: i xor 1; the last of an odd number is its own neighbor."""
    index = torch.arange(len(keys), device=keys.device)
    partner = index ^ 1
    return torch.where(partner < len(keys), partner, index)


def _mixed(targets: torch.Tensor, partner: torch.Tensor, share: torch.Tensor, classes: int) -> torch.Tensor:
    """float [N, C]: `share` of the own target, the rest of the partner's."""
    soft = targets if targets.is_floating_point() else F.one_hot(targets, classes).float()
    return torch.lerp(soft[partner], soft, share[:, None])


def _beta(keys: torch.Tensor, purpose: str, alpha: float) -> torch.Tensor:
    """Beta(alpha, alpha) in [0, 1], shape of keys: its quantile function, interpolated, at a uniform."""
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
