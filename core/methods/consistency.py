"""Consistency regularization: two views of an image should get the same prediction."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from core import randomness as K
from core.augment import BatchStep, HorizontalFlip, augmented
from core.common.tensors import full
from core.context import Context
from core.loading.batches import Batch
from core.methods.base import LossFunction, Method, Output
from core.schedules import Clock


class Consistency(Method):
    """The loss plus the squared distance between the predicted probabilities of two views of an image, weighted.

    This is the Pi-model (Laine and Aila 2017, section 2.1): the distance is a mean over classes, gradients flow through
    both views, and the weight ramps up as exp(-5 (1 - t)^2) over the first `ramp_epochs`. The second view is `view`
    applied to the augmented image. Its random keys are hashed from those of the batch, so that it is reproducible in
    any process and after a resume. Both views pass through the network as one batch of size 2N.
    """

    reads_clock: ClassVar[bool] = True

    view: tuple[BatchStep, ...] = Field(
        (HorizontalFlip(),), description="batch augmentations that create the second view from the augmented image"
    )
    weight: float = Field(1.0, ge=0, description="weight of the distance between the two predictions, after the ramp")
    ramp_epochs: float = Field(
        0.0, ge=0, description="epochs over which the weight ramps up; 0: full weight from the start"
    )

    def check(self) -> None:
        if not self.view:
            raise ValueError("view must contain at least one augmentation; without one, both views are identical")

    def build(self, context: Context) -> Any:
        """This method. Raises ValueError if a step of `view` changes the targets, as Mixup and CutMix do."""
        height, width, channels = context.image_shape
        images, targets = torch.zeros(2, channels, height, width), torch.arange(2)
        for step in self.view:
            try:
                changed = step(images, targets, torch.arange(2), len(context.classes))[1]
            except ValueError as error:
                raise ValueError(f"method.view.{step.label()}: {error}") from None
            if changed is not targets:
                raise ValueError(
                    f"method.view.{step.label()}: this augmentation changes the targets; both views must show the "
                    "same image"
                )
        return self

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        both = model(torch.cat([batch.images, self.second(batch, clock)]))
        logits, second = both.chunk(2)
        distance = (full(logits).softmax(dim=1) - full(second).softmax(dim=1)).square().mean(dim=1)
        losses = loss(logits, batch.targets)
        return Output(losses + self.weight * self.ramp(clock) * distance, logits, {"distance": distance})

    def second(self, batch: Batch, clock: Clock) -> torch.Tensor:
        """A second view of each image of an augmented batch, float [N, C, H, W]."""
        keys = K.another(batch.keys, "second view")
        return augmented(self.view, 0, batch._replace(keys=keys), clock).images

    def ramp(self, clock: Clock) -> float:
        """Fraction of the full weight at this step, in (0, 1]."""
        end = self.ramp_epochs * clock.steps_per_epoch
        return math.exp(-5 * (1 - clock.step / end) ** 2) if clock.step < end else 1.0
