"""Losses that treat each class as a separate output: binary cross-entropy and mean squared error."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from core.common.tensors import full
from core.losses.base import Loss, probabilities


class BinaryCrossEntropy(Loss):
    """Binary cross-entropy of sigmoid(logits), one binary classification per class (Wightman et al. 2021).

    logits [N, C]; targets int64 [N], mixed targets float [N, C], or multi-label targets float [N, C]; returns [N].
    The default, the sum over classes, is the negative log-likelihood of C independent labels; the gradient of the true
    class's logit is then of the same size as that of cross-entropy, for any C. The mean divides value and gradient by
    C, as the code of the paper does; learning rates from the paper are meant for `over_classes="mean"`.
    """

    multi_label: ClassVar[bool] = True

    over_classes: Literal["sum", "mean"] = Field("sum", description="reduction of the loss over classes")
    threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="set targets mixed by Mixup or CutMix to 1 above this value, else to 0; none: keep mixed targets",
    )

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = full(logits)
        labels = probabilities(targets, logits)
        if self.threshold is not None:
            labels = (labels > self.threshold).to(logits.dtype)
        terms = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return terms.sum(dim=1) if self.over_classes == "sum" else terms.mean(dim=1)


class MeanSquaredError(Loss):
    """Mean squared error between logits (without softmax) and one-hot targets (Hui and Belkin 2021).

    logits [N, C]; targets int64 [N] or float [N, C]; returns [N], the mean over classes.
    """

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = full(logits)
        return (logits - probabilities(targets, logits)).square().mean(dim=1)
