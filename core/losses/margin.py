"""ArcFace: a loss with weights of its own."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from core.common.tensors import full
from core.losses.base import Loss, expected, spread

if TYPE_CHECKING:
    from core.context import Context
    from core.models import Model


class ArcFace(Loss):
    """Cross-entropy of scale cos(angle), the true class's angle first widened by a margin (Deng et al. 2019, eq. 3).

    The declared model gives an embedding of `embedding` numbers, and the loss brings the last layer: a weight for each
    class, whose angles to the embedding, as scale cos(angle), are the logits [N, C]. That layer is part of the network
    (see `network`): so its weights are averaged, saved, tested and loaded with all others, and whoever takes the
    network's logits - evaluation, prediction, a pupil - needs to know nothing of this loss.

    logits [N, C] of that network; targets int64 [N], or float [N, C], each class's margin then in proportion to its
    share; gives [N].
    """

    embedding_dim: int = Field(64, ge=2, le=65_536, description="numbers that the model gives for an image")
    scale: float = Field(64.0, gt=0, description="length of the logits (s in the paper)")
    margin: float = Field(0.5, ge=0, lt=math.pi / 2, description="added to the true class's angle, in radians")

    def network(self, model: Model, context: Context) -> nn.Module:
        names = tuple(f"embedding {i}" for i in range(self.embedding_dim))
        body = model.build(replace(context, classes=names, class_counts=()))
        return nn.Sequential(OrderedDict(body=body, head=Angles(self.embedding_dim, len(context.classes), self.scale)))

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = full(logits)
        share = spread(targets, logits)
        logits = logits + share * (self.scale * self._widened((logits / self.scale).clamp(-1, 1)) - logits)
        return -expected(logits.log_softmax(dim=1), targets)

    def _widened(self, cosine: torch.Tensor) -> torch.Tensor:
        """cos(angle + margin). Where that would pass pi and rise again, on downwards in a line of slope 1."""
        # kept from 0, where a root has an infinite slope
        sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        edge = -math.cos(self.margin)
        return torch.where(cosine > edge, turned, cosine - edge - 1)


class Angles(nn.Module):
    """float [N, D] -> [N, C]: scale times the cosine of the angle to each class's weight, [C, D]."""

    def __init__(self, width: int, classes: int, scale: float):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, width))
        nn.init.normal_(self.weight)  # uniform over directions

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        # not in half precision: of a cosine near 1 it leaves no angle
        with torch.autocast(embedding.device.type, enabled=False):
            return self.scale * F.linear(F.normalize(full(embedding)), F.normalize(full(self.weight)))
