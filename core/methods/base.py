"""Method, the base class of training methods, and Supervised, the default."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

from core.declare.part import Part
from core.loading.batches import Batch
from core.schedules import Clock

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Compiled = Callable[[Any], Any]  # a callable, translated: torch.compile, or as_it_is


class Output(NamedTuple):
    """losses: per-example losses [N], whose mean is minimized.  logits: [N, C].

    extras: what the method reports of itself, by name: scalars or values of each example, [N]. The mean over steps,
    micro-batches and processes is recorded as step/NAME and train/NAME. The names are the same at every step.
    """

    losses: torch.Tensor
    logits: torch.Tensor
    extras: Mapping[str, torch.Tensor] = {}

    def reported(self, names: Sequence[str]) -> list[torch.Tensor]:
        """These extras, [N] each, without gradients."""
        return [self.extras[name].detach().to(self.losses.dtype).expand(len(self.losses)) for name in names]


class Method(Part, ABC):
    """Base class of training methods.

    `build` of a method whose parameters or buffers change (a queue, a moving average) returns an nn.Module with the
    same `step`, which becomes part of the training state. If they are constant (a teacher), it may return any object
    with this `step`. The network to be trained is `context.network`.
    """

    multi_label: ClassVar[bool] = False  # accepts multi-label targets, float [N, C] of 0 and 1
    reads_clock: ClassVar[bool] = False  # the step depends on the clock: --compile translates the network alone
    instead: ClassVar[str] = "use Supervised"

    @property
    def views(self) -> int:
        """Number of views of each image in a batch, augmented independently; rows that follow one another."""
        return 1

    @abstractmethod
    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        """The forward pass on a batch of augmented, normalized images on the device."""


def as_it_is(function: Any) -> Any:
    """The translation without --compile."""
    return function


class Supervised(Method):
    """Supervised training: the loss of the logits of each image, that is, empirical risk minimization (Vapnik 1991)."""

    multi_label: ClassVar[bool] = True

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        logits = model(batch.images)
        return Output(loss(logits, batch.targets), logits)


class Forward(nn.Module):
    """A module of everything that is trained, whose forward pass is the step of the method.

    compiled: translates the step, or the network alone if the step reads the clock, which changes at each step.
    step: (batch, clock) -> Output, as translated; faster than calling the module, which checks for hooks.
    """

    def __init__(self, trained: nn.ModuleDict, method: Method, loss: LossFunction, compiled: Compiled = as_it_is):
        super().__init__()
        self.trained, self.compiled = trained, compiled
        # neither is registered as a module: the names of weights are those of `trained`
        if getattr(method, "reads_clock", False):
            self.step = partial(method.step, compiled(trained["model"]), loss)
        else:
            self.step = compiled(partial(method.step, trained["model"], loss))

    def forward(self, batch: Batch, clock: Clock) -> Output:
        output: Output = self.step(batch, clock)
        return output
