"""A custom loss that depends on the class counts of the training set."""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from core.common.tensors import full
from core.context import Context
from core.losses.base import BuiltLoss, ByClass, counts, probabilities


class MarginByClass(BuiltLoss):
    """LDAM loss (Cao et al. 2019, equations 11 and 13): cross-entropy with a margin that is larger for rarer classes.

    The margin, subtracted from the logit of the true class, is margin * (n_rarest / n_class)^(1/4). Where the paper has
    scaled cosines, this loss has plain logits, so the margin is in units of logits.
    logits [N, C]; targets int64 [N] or float [N, C]; returns [N].
    """

    margin: float = Field(1.0, ge=0, description="margin of the rarest class, in units of logits; 0 is cross-entropy")

    def build(self, context: Context) -> nn.Module:
        known = counts(context)
        return ByClass(self.values, self.margin * (known.min() / known) ** 0.25)

    def values(self, logits: torch.Tensor, targets: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        """Losses [N] of logits [N, C] and targets, with one margin per class, float [C]."""
        logits = full(logits)
        return F.cross_entropy(logits - margins * probabilities(targets, logits), targets, reduction="none")
