"""L1 and L2 penalties on the weights, for any training method."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from core.loading.batches import Batch
from core.methods.base import LossFunction, Method, Output, Supervised
from core.schedules import Clock


class WeightPenalty(Method):
    """Add l1 * sum |w| + l2 / 2 * sum w^2, over the trainable weights of the network, to the losses of another method.

    Biases and the parameters of normalization layers (fewer than two dimensions) are excluded, as from weight_decay of
    the optimizers. l1 is the lasso (Tibshirani 1996). l2 has the gradient l2 * w (Krogh and Hertz 1991, equation 3),
    which is the same as weight_decay of SGD and Adam, but not of AdamW.
    """

    multi_label: ClassVar[bool] = True  # if the inner method does

    method: Method = Field(Supervised(), description="training method whose losses are penalized")
    l1: float = Field(0.0, ge=0, description="coefficient of the L1 penalty, the sum of |w|")
    l2: float = Field(0.0, ge=0, description="coefficient of the L2 penalty, half the sum of w^2")

    @property
    def views(self) -> int:
        return self.method.views

    def check(self) -> None:
        if not (self.l1 or self.l2):
            raise ValueError("l1 and l2 are both 0; set at least one of them, or use the inner method without penalty")

    def build(self, context: Any) -> Any:
        return _Penalized(self, self.method.build(context))

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        return self.penalized(self.method.step(model, loss, batch, clock), model)

    def penalized(self, output: Output, model: nn.Module) -> Output:
        """The output with the penalty added to each of the losses [N], and so to their mean; it is reported, too."""
        weights = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
        terms = [self.l1 * torch.stack([w.abs().sum() for w in weights]).sum()] if self.l1 else []
        terms += [self.l2 / 2 * torch.stack([w.square().sum() for w in weights]).sum()] if self.l2 else []
        penalty = sum(terms[1:], terms[0])
        return output._replace(losses=output.losses + penalty, extras={**output.extras, "penalty": penalty})


class _Penalized(nn.Module):
    """WeightPenalty with its inner method built. An nn.Module, so that the parameters of an inner method that is a
    module belong to the training state."""

    def __init__(self, declared: WeightPenalty, method: Any):
        super().__init__()
        self.declared, self.method = declared, method
        self.reads_clock = getattr(method, "reads_clock", False)

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        return self.declared.penalized(self.method.step(model, loss, batch, clock), model)
