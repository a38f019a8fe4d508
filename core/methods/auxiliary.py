"""Auxiliary, the method for networks with auxiliary heads."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from core.common.errors import UserError
from core.loading.batches import Batch
from core.methods.base import LossFunction, Method, Output
from core.schedules import Clock


class Auxiliary(Method):
    """The loss of the logits plus `weight` times that of each auxiliary head (Szegedy et al. 2015, section 5).

    For networks that give (logits, auxiliary logits, ...) in training, each [N, C], as Torchvision with auxiliary does.
    """

    multi_label: ClassVar[bool] = True

    weight: float = Field(
        0.4, ge=0, description="of each auxiliary loss; GoogLeNet's paper has 0.3, Inception v3 is trained with 0.4"
    )

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        """Raises UserError for a network without auxiliary heads."""
        outputs = model(batch.images)
        if isinstance(outputs, torch.Tensor):
            known = "Torchvision with name googlenet or inception_v3 and auxiliary"
            raise UserError([f"method: Auxiliary needs a model with auxiliary heads: {known}"])
        logits, *auxiliary = (output for output in outputs if output is not None)
        losses = loss(logits, batch.targets)
        for heads in auxiliary:
            losses = losses + self.weight * loss(heads, batch.targets)
        return Output(losses, logits)
