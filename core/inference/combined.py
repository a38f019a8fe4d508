"""Networks that are made of the networks of finished runs: the mean answer of several, and the mean of their weights.

They are declared like any other model, so that a run of one is rebuilt, answers, and is exported like any other run.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from core.common.tensors import full
from core.context import Context
from core.declare.part import Part
from core.loading.batches import Batch
from core.loading.normalize import normalizer
from core.losses import CrossEntropy, Loss
from core.metrics.task import Task, task_of
from core.models import Model
from core.models.tta import Views, averaged

AS_PIXELS = 0.0, 1 / 255  # mean and standard deviation with which images keep the values 0 to 255


class Combined(Model, ABC):
    """Base class of networks that are made of trained ones, and cannot be trained themselves."""

    def check(self) -> None:
        kind = type(self).__name__
        raise ValueError(
            f"a network of class {kind} is not trained: labbook {kind.lower()} RUN ... makes it of finished runs"
        )


class Member(Part):
    """A trained network in an ensemble (Dietterich 2000): from images float [N, C, H, W] of the values 0 to 255 to
    logits [N, classes], with the normalization and test-time augmentation of its run."""

    model: Model = Field(description="network")
    loss: Loss = Field(CrossEntropy(), description="loss with which it was trained, which may add its last layer")
    mean: tuple[float, ...] = Field(
        (),
        description="mean of each channel, of pixels in 0..1, that normalizes images; empty: that of each image, or "
        "of each of its channels if there are deviations",
    )
    std: tuple[float, ...] = Field((), description="standard deviation of each channel, of pixels in 0..1")
    tta: Views = Field("none", description="its test-time augmentation")
    weight: float = Field(1.0, gt=0, description="weight of its probabilities in the mean, relative to other members")


class Ensemble(Combined):
    """The weighted mean of the probabilities of several networks (Dietterich 2000; Caruana et al. 2004), from images
    float [N, C, H, W] of the values 0 to 255 to logits [N, classes]: for single-label images the logarithms of these
    means."""

    members: tuple[Member, ...] = Field(description="the networks")
    multi_label: bool = Field(False, description="whether each class has a probability of its own")

    def network(self, context: Context) -> nn.Module:
        return self.of([_built(member.model, member.loss, context) for member in self.members])

    def of(self, networks: Sequence[nn.Module]) -> nn.Module:
        """The network, given those of the members: normalized images -> logits."""
        task = task_of(self.multi_label)
        each = [
            _Answering(averaged(network, member.tta, task), member.mean, member.std)
            for network, member in zip(networks, self.members, strict=True)
        ]
        return _Mean(each, [member.weight for member in self.members], task)


class Soup(Combined):
    """A network whose weights are the mean of those of several networks that started from the same ones (Wortsman et
    al. 2022), from images [N, C, H, W] to logits [N, classes]."""

    of: Model = Field(description="network of which each was trained")

    def network(self, context: Context) -> nn.Module:
        return _without_origin(self.of).build(context)


def _without_origin(model: Model) -> Model:
    """The model without pretrained weights, which those of a run replace."""
    return model.model_copy(update={"weights": None})


def _built(model: Model, loss: Loss, context: Context) -> nn.Module:
    return loss.network(_without_origin(model), context)


class _Answering(nn.Module):
    """Images of the values 0 to 255 -> logits."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network, self.mean, self.std = network, tuple(mean), tuple(std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        nothing = torch.empty(0)
        # a copy, because normalization may work in place
        pixels = Batch(images.permute(0, 2, 3, 1).clone(), nothing, nothing, nothing)
        logits: torch.Tensor = self.network(normalizer(self.mean, self.std, images.device)(pixels).images)
        return logits


class _Mean(nn.Module):
    """The logits of the weighted mean of the members' probabilities."""

    weights: torch.Tensor

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float], task: Task):
        super().__init__()
        self.members, self.task = nn.ModuleList(members), task
        shares = torch.tensor(weights, dtype=torch.float64)
        self.register_buffer("weights", (shares / shares.sum()).float(), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: float [N, C, H, W] of the values 0 to 255 -> logits [N, classes]."""
        answers = torch.stack([full(member(images)) for member in self.members])
        return self.task.mean_of_views(answers, self.weights)
