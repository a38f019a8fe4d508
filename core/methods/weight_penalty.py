"""Penalties on the size of weights, for any method."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from core.loading.batches import Batch
from core.methods.base import LossFunction, Method, Output, Supervised
from core.schedules import Clock


class WeightPenalty(Method):
    """Another method's losses + l1 sum |w| + l2 / 2 sum w^2, over the network's trained weights.

    Norms and biases (fewer than two dimensions) are spared, as the optimizers' weight_decay spares them. l1: Tibshirani
    1996. l2 is what SGD calls weight_decay: its gradient is l2 w (Krogh and Hertz 1991, equation 3); under Adam it is
    not AdamW's.
    """

    multi_label: ClassVar[bool] = True  # where the method within does

    method: Method = Field(Supervised(), description="whose losses are penalized")
    l1: float = Field(0.0, ge=0, description="pulls every weight to 0 with the same force: many become small")
    l2: float = Field(0.0, ge=0, description="pulls every weight to 0 in proportion to it")

    def check(self) -> None:
        if not (self.l1 or self.l2):
            raise ValueError("l1 and l2 are both 0: nothing is penalized; set one, or use its method alone")

    def build(self, context: Any) -> Any:
        return _Penalized(self, self.method.build(context))

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        return self.penalized(self.method.step(model, loss, batch, clock), model)

    def penalized(self, output: Output, model: nn.Module) -> Output:
        """The same with the penalty added to each of losses [N], so that it is added to their mean."""
        weights = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
        terms = [self.l1 * torch.stack([w.abs().sum() for w in weights]).sum()] if self.l1 else []
        terms += [self.l2 / 2 * torch.stack([w.square().sum() for w in weights]).sum()] if self.l2 else []
        return output._replace(losses=output.losses + sum(terms))


class _Penalized(nn.Module):
    """A module, since the method within may have been built to one: its weights then belong to the state."""

    def __init__(self, declared: WeightPenalty, method: Any):
        super().__init__()
        self.declared, self.method = declared, method

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        return self.declared.penalized(self.method.step(model, loss, batch, clock), model)
