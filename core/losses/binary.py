"""Losses that ask about each class by itself."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from core.common.tensors import full
from core.losses.base import Loss, spread


class BinaryCrossEntropy(Loss):
    """One yes-or-no question for each class: binary cross-entropy of sigmoid(logit) (Wightman et al. 2021).

    logits [N, C]; targets int64 [N], float [N, C] mixed, or float [N, C] of several labels; gives [N]. Summed over
    classes it is minus the log-likelihood of C independent answers, and pulls the true class's logit as hard as
    cross-entropy does, whatever C: that is the default. The mean divides value and gradient by C, as in the paper's
    own code: its learning rates go with `over_classes = "mean"`.
    """

    multi_label: ClassVar[bool] = True

    over_classes: Literal["sum", "mean"] = Field("sum", description="how the classes' terms make one value")
    threshold: float | None = Field(
        None, ge=0, lt=1, description="a mixed target above it counts as 1, else as 0; none leaves it as it is"
    )

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = full(logits)
        wanted = spread(targets, logits)
        if self.threshold is not None:
            wanted = (wanted > self.threshold).to(logits.dtype)
        terms = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return terms.sum(dim=1) if self.over_classes == "sum" else terms.mean(dim=1)


class MeanSquaredError(Loss):
    """Squared distance of logits, no softmax, from one-hot targets; mean over classes (Hui and Belkin 2021).

    logits [N, C]; targets int64 [N] or float [N, C]; gives [N].
    """

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = full(logits)
        return (logits - spread(targets, logits)).square().mean(dim=1)
