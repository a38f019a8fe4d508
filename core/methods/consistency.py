"""Two views of one image should get one answer."""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import nn

from core import keys as K
from core.augment import BatchStep, HorizontalFlip, augmented
from core.common.tensors import full
from core.context import Context
from core.loading.batches import Batch
from core.methods.base import LossFunction, Method, Output
from core.schedules import Clock


class Consistency(Method):
    """The loss of an image + weight times the squared distance of its probabilities from those of a second view.

    The Pi-model (Laine and Aila 2017, section 2.1): mean over classes, gradients through both views, the weight rising
    as exp(-5 (1 - t)^2) over the first `ramp_epochs`. The second view is `view` applied to the image as `augment` left
    it, with keys of its own hashed from the batch's: so it too is the same in any process and after any resume. Both
    views go through the network as one batch of 2N.
    """

    view: tuple[BatchStep, ...] = Field((HorizontalFlip(),), description="batch steps that make the second view")
    weight: float = Field(1.0, ge=0, description="of the distance between the two answers, once risen")
    ramp_epochs: float = Field(0.0, ge=0, description="epochs over which the weight rises; 0: full from the start")

    def check(self) -> None:
        if not self.view:
            raise ValueError("view: it needs at least one step, or both views are the same")

    def build(self, context: Context) -> Any:
        """Raises ValueError for a step of `view` that mixes images: two views must show the same."""
        height, width, channels = context.image_shape
        images, targets = torch.zeros(2, channels, height, width), torch.arange(2)
        for step in self.view:
            try:
                changed = step(images, targets, torch.arange(2), len(context.classes))[1]
            except ValueError as error:
                raise ValueError(f"method.view.{step.label()}: {error}") from None
            if changed is not targets:
                raise ValueError(f"method.view.{step.label()}: it changes targets; a second view must show the same")
        return self

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        both = model(torch.cat([batch.images, self.second(batch, clock)]))
        logits, again = both.chunk(2)
        apart = (full(logits).softmax(dim=1) - full(again).softmax(dim=1)).square().mean(dim=1)
        return Output(loss(logits, batch.targets) + self.weight * self.risen(clock) * apart, logits)

    def second(self, batch: Batch, clock: Clock) -> torch.Tensor:
        """float [N, C, H, W]: another view of each image of an augmented batch."""
        keys = K.another(batch.keys, "second view")
        return augmented(self.view, 0, batch._replace(keys=keys), clock).images

    def risen(self, clock: Clock) -> float:
        """Share of the weight that is reached at this step, in (0, 1]."""
        end = self.ramp_epochs * clock.steps_per_epoch
        return math.exp(-5 * (1 - clock.step / end) ** 2) if clock.step < end else 1.0
