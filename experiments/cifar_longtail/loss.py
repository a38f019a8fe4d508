"""A loss of one's own that must know the data: the training set's class counts."""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from core.common.tensors import full
from core.context import Context
from core.losses.base import BuiltLoss, ByClass, counts, spread


class MarginByClass(BuiltLoss):
    """Cross-entropy after the true class's logit is lowered by margin * (n_rarest / n_class)^(1/4): the rarer a class,
    the more certain must the network be of it (LDAM: Cao et al. 2019, equations 11 and 13; their scaled cosines are
    plain logits here, so the margin is in units of logits).

    logits [N, C]; targets int64 [N] or float [N, C]; gives [N].
    """

    margin: float = Field(1.0, ge=0, description="of the rarest class, in logits; 0 is cross-entropy")

    def build(self, context: Context) -> nn.Module:
        known = counts(context)
        return ByClass(self.values, self.margin * (known.min() / known) ** 0.25)

    def values(self, logits: torch.Tensor, targets: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        """[N], of logits [N, C], targets, and the margin of each class, float [C]."""
        logits = full(logits)
        return F.cross_entropy(logits - margins * spread(targets, logits), targets, reduction="none")
