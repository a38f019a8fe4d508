"""ArcFace, a loss that adds a classification layer to the network."""

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
from core.losses.base import Loss, expected, probabilities

if TYPE_CHECKING:
    from core.context import Context
    from core.models import Model


class ArcFace(Loss):
    """ArcFace (Deng et al. 2019, equation 3): cross-entropy of scale * cos(angle), with a margin on the true class.

    The declared model computes an embedding of size `embedding_dim`, and the loss adds the last layer: one weight
    vector per class; the logits [N, C] are scale * cos(angle between embedding and weight vector). The margin is added
    to the angle of the true class, in training only. The layer is part of the network (see `network`), so that its
    weights are averaged, saved and loaded with the others, and evaluation, prediction and distillation use its logits
    like those of any network.

    logits [N, C] of that network; targets int64 [N], or float [N, C], for which the margin of each class is scaled by
    its probability; returns [N].
    """

    embedding_dim: int = Field(64, ge=2, le=65_536, description="dimension of the embedding that the model computes")
    scale: float = Field(64.0, gt=0, description="scale of the cosines (s in the paper)")
    margin: float = Field(
        0.5, ge=0, lt=math.pi / 2, description="angular margin added to the true class, in radians (m in the paper)"
    )

    def network(self, model: Model, context: Context) -> nn.Module:
        names = tuple(f"embedding {i}" for i in range(self.embedding_dim))
        body = model.build(replace(context, classes=names, class_counts=()))
        return nn.Sequential(OrderedDict(body=body, head=Angles(self.embedding_dim, len(context.classes), self.scale)))

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = full(logits)
        share = probabilities(targets, logits)
        logits = logits + share * (self.scale * self._with_margin((logits / self.scale).clamp(-1, 1)) - logits)
        return -expected(logits.log_softmax(dim=1), targets)

    def _with_margin(self, cosine: torch.Tensor) -> torch.Tensor:
        """cos(angle + margin). For angle + margin > pi, where this would increase again, a line of slope 1 continues it
        downwards."""
        # clamped, because the square root has an infinite gradient at 0
        sine = (1 - cosine.square()).clamp(min=torch.finfo(cosine.dtype).eps).sqrt()
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        edge = -math.cos(self.margin)
        return torch.where(cosine > edge, turned, cosine - edge - 1)


class Angles(nn.Module):
    """Layer [N, D] -> [N, C]: scale times the cosine of the angle between input and weight vector of each class."""

    def __init__(self, width: int, classes: int, scale: float):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(classes, width))
        nn.init.normal_(self.weight)  # uniform over directions

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        # not in half precision, which cannot resolve small angles: their cosines are all near 1
        with torch.autocast(embedding.device.type, enabled=False):
            return self.scale * F.linear(F.normalize(full(embedding)), F.normalize(full(self.weight)))
