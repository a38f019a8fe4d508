"""Method, the base of methods, and Supervised, the default."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from core.declare.part import Part
from core.loading.batches import Batch
from core.schedules import Clock

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Output(NamedTuple):
    """losses: [N], what is minimized, per example.  logits: [N, C]."""

    losses: torch.Tensor
    logits: torch.Tensor


class Method(Part, ABC):
    """Base of methods. One with weights or buffers that change (a queue, a moving average) builds an nn.Module with
    this same `step`, which becomes part of the state; what stays as it is (a teacher) may build any object with it."""

    multi_label: ClassVar[bool] = False  # takes targets float [N, C] of 0 and 1, several labels at a time
    instead: ClassVar[str] = "use Supervised"

    @abstractmethod
    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        """Forward pass of a batch whose images are augmented, normalized and on the device."""


class Supervised(Method):
    """The loss of the logits of each image, whose mean is the empirical risk (Vapnik 1991)."""

    multi_label: ClassVar[bool] = True

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        logits = model(batch.images)
        return Output(loss(logits, batch.targets), logits)


class Forward(nn.Module):
    """Everything that is trained, as one module whose forward pass is the method's step."""

    def __init__(self, trained: nn.ModuleDict, method: Method, loss: LossFunction):
        super().__init__()
        self.trained, self.method, self.loss = trained, method, loss

    def forward(self, batch: Batch, clock: Clock) -> Output:
        return self.method.step(self.trained["model"], self.loss, batch, clock)
