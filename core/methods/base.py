"""Method, the base class of training methods, and Supervised, the default."""

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
    """losses: per-example losses [N], whose mean is minimized.  logits: [N, C]."""

    losses: torch.Tensor
    logits: torch.Tensor


class Method(Part, ABC):
    """Base class of training methods.

    `build` of a method whose parameters or buffers change (a queue, a moving average) returns an nn.Module with the
    same `step`, which becomes part of the training state. If they are constant (a teacher), it may return any object
    with this `step`.
    """

    multi_label: ClassVar[bool] = False  # accepts multi-label targets, float [N, C] of 0 and 1
    instead: ClassVar[str] = "use Supervised"

    @abstractmethod
    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        """The forward pass on a batch of augmented, normalized images on the device."""


class Supervised(Method):
    """Supervised training: the loss of the logits of each image, that is, empirical risk minimization (Vapnik 1991)."""

    multi_label: ClassVar[bool] = True

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        logits = model(batch.images)
        return Output(loss(logits, batch.targets), logits)


class Forward(nn.Module):
    """A module of everything that is trained, whose forward pass is the step of the method."""

    def __init__(self, trained: nn.ModuleDict, method: Method, loss: LossFunction):
        super().__init__()
        self.trained, self.method, self.loss = trained, method, loss

    def forward(self, batch: Batch, clock: Clock) -> Output:
        return self.method.step(self.trained["model"], self.loss, batch, clock)
