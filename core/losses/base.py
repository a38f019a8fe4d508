"""Loss, the base of losses, and what several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from core.declare.part import Part

if TYPE_CHECKING:
    from core.context import Context
    from core.models import Model


class Loss(Part, ABC):
    """Base of losses. One with weights or buffers of its own builds an nn.Module with this same call.

    What evaluation, prediction and the moving average need beside the network belongs into the network: see `network`.
    """

    multi_label: ClassVar[bool] = False  # takes targets float [N, C] of 0 and 1, several labels at a time
    instead: ClassVar[str] = "use BinaryCrossEntropy"

    @abstractmethod
    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """[N], one value for each example, of logits [N, C] and targets int64 [N] or float [N, C]."""

    def network(self, model: Model, context: Context) -> nn.Module:
        """The network whose logits this loss takes: that of the model, unless the loss brings a last layer."""
        return model.build(context)


class BuiltLoss(Loss, ABC):
    """Base of losses that must know the classes: called is what `build` gives, an nn.Module."""

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise TypeError(f"{type(self).__name__} must know the classes: call what its build(context) gives")


class ByClass(nn.Module):
    """`function(logits, targets, numbers) -> [N]` with its numbers, float [C], on whatever device the module is.

    The numbers follow from the declaration and the data: they are made anew for a resumed run, and not saved.
    """

    numbers: torch.Tensor

    def __init__(self, function: Callable[..., torch.Tensor], numbers: torch.Tensor):
        super().__init__()
        self.function = function
        self.register_buffer("numbers", numbers.float(), persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.function(logits, targets, self.numbers)


def expected(per_class: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[N]: of per_class [N, C], the value of the true class (int64 [N]), or the mean under targets float [N, C]."""
    if targets.is_floating_point():
        # by where, for 0 times an infinite value is no number
        return (targets * per_class).where(targets != 0, 0.0).sum(dim=1)
    return per_class.gather(1, targets[:, None]).squeeze(1)


def spread(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Targets int64 [N] or float [N, C] as probabilities [N, C] of the dtype of logits [N, C]."""
    if targets.is_floating_point():
        return targets.to(logits.dtype)
    return F.one_hot(targets, logits.shape[1]).to(logits.dtype)


def weights_of(targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[N]: the weight (of float [C]) of each example's class; of a mixed target float [N, C], the mean under it."""
    # by sums: a product of matrices would be taken in half precision under autocast
    return (targets * weights).sum(dim=1) if targets.is_floating_point() else weights[targets]


def counts(context: Context) -> torch.Tensor:
    """float64 [C], training samples of each class, at least 1: a class without any must not become an infinity."""
    return torch.tensor(context.class_counts, dtype=torch.float64).clamp(min=1)


def number_per_class(value: Any) -> tuple[float, ...] | str | None:
    """A field's value or its text ("1,2,0.5") as one number for each class, "balanced" or None. Raises ValueError."""
    if value is None:
        return None
    if value == "balanced":
        return "balanced"
    try:
        numbers = tuple(float(item) for item in (value.split(",") if isinstance(value, str) else value))
    except (TypeError, ValueError):
        numbers = ()
    if not any(numbers) or not all(0 <= number < float("inf") for number in numbers):
        raise ValueError("should be balanced, none, or a number from 0 on for each class, not all 0")
    return numbers
