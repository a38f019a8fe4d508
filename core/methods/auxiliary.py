"""Auxiliary, the training method for networks with auxiliary classifiers."""

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
    """The loss of the logits plus `weight` times that of each auxiliary classifier (Szegedy et al. 2015, section 5).

    For networks that return (logits, auxiliary logits, ...) in training, each [N, C], such as Torchvision with
    aux_logits.
    """

    multi_label: ClassVar[bool] = True

    weight: float = Field(
        0.4, ge=0, description="weight of each auxiliary loss; 0.3 in the paper of GoogLeNet, 0.4 for Inception v3"
    )

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        """Raises UserError if the network has no auxiliary classifiers."""
        outputs = model(batch.images)
        if isinstance(outputs, torch.Tensor):
            known = "--model Torchvision --model.name googlenet (or inception_v3) --model.aux_logits true"
            raise UserError([f"method: Auxiliary needs a model with auxiliary heads, for example {known}"])
        logits, *auxiliary = (output for output in outputs if output is not None)
        losses = loss(logits, batch.targets)
        for heads in auxiliary:
            losses = losses + self.weight * loss(heads, batch.targets)
        return Output(losses, logits)
