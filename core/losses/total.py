"""Sum, the weighted sum of several losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from core.declare.tree import step_names
from core.losses.base import BuiltLoss, Loss

if TYPE_CHECKING:
    from core.context import Context
    from core.models import Model


class Sum(BuiltLoss):
    """The weighted sum of losses, as the objectives of multi-task learning are (Caruana 1997).

    Sum(losses=(CrossEntropy(), FocalLoss()), weights=(1, 0.5)). logits [N, C]; targets as every one of them takes them;
    returns [N]. Each loss is measured for val and test by itself, without its weight: val/loss_cross_entropy,
    val/loss_focal_loss. One with the weight 0 is measured and not trained.
    """

    multi_label: ClassVar[bool] = True  # if all losses do

    losses: tuple[Loss, ...] = Field((), description="losses that are added")
    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        (), description="weight of each loss, in the same order; none: all 1"
    )

    @property
    def per_example(self) -> bool:
        return all(loss.per_example for loss in self.losses)

    def check(self) -> None:
        if not self.losses:
            raise ValueError("losses must contain at least one loss")
        if self.weights and len(self.weights) != len(self.losses):
            raise ValueError(f"weights: got {len(self.weights)} weights for {len(self.losses)} losses")
        if self.weights and not any(self.weights):
            raise ValueError("weights: all of them are 0, so that nothing would be trained")
        if len(layered := [loss.label() for loss in self.losses if adds_layers(loss)]) > 1:
            raise ValueError(f"losses: {' and '.join(layered)} each add a last layer to the network; keep one of them")

    def build(self, context: Context) -> nn.Module:
        names = [f"loss_{name}" for name in step_names(self.losses)]
        weights = self.weights or (1.0,) * len(self.losses)
        return _Total(names, [loss.build(context) for loss in self.losses], weights)

    def network(self, model: Model, context: Context) -> nn.Module:
        layered = next(filter(adds_layers, self.losses), None)
        return layered.network(model, context) if layered else super().network(model, context)


def adds_layers(loss: Loss) -> bool:
    """Whether a loss, or one of those within it, has a last layer of its own."""
    within = [part for _, part in loss.parts() if isinstance(part, Loss)]
    return any(map(adds_layers, within)) if within else type(loss).network is not Loss.network


class _Total(nn.Module):
    """Built losses with their weights. Those that are modules become submodules."""

    def __init__(self, names: list[str], losses: list[Any], weights: tuple[float, ...]):
        super().__init__()
        self.names, self.weights = names, weights
        self.losses = nn.ModuleList(map(_Term, losses))

    @property
    def terms(self) -> Mapping[str, Callable[..., torch.Tensor]]:
        """The losses, to be measured by themselves, by the name of their metric."""
        return dict(zip(self.names, self.losses, strict=True))

    @property
    def per_example(self) -> bool:
        return all(getattr(term.loss, "per_example", True) for term in self.losses)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        trained = [(w, term) for w, term in zip(self.weights, self.losses, strict=True) if w]
        return torch.stack([weight * term(logits, targets) for weight, term in trained]).sum(dim=0)


class _Term(nn.Module):
    """A loss as a module, whether or not it is one."""

    def __init__(self, loss: Any):
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.loss(logits, targets)
        return values
