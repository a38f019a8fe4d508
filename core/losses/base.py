"""Loss, the base class of loss functions, and helpers shared by several of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from core.common.text import did_you_mean, listed
from core.declare.part import Part

if TYPE_CHECKING:
    from core.context import Context
    from core.models import Model


class Loss(Part, ABC):
    """Base class of losses. `build` of a loss with parameters or buffers returns an nn.Module with the same call.

    Layers that evaluation, prediction and weight averaging also need belong to the network: see `network`.
    """

    multi_label: ClassVar[bool] = False  # accepts multi-label targets, float [N, C] of 0 and 1
    several_tasks: ClassVar[bool] = False  # accepts the targets of several tasks, float [N, C] with one-hot blocks
    instead: ClassVar[str] = "use BinaryCrossEntropy"
    for_tasks: ClassVar[str] = "use TaskLosses"

    @abstractmethod
    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of each example, [N], given logits [N, C] and targets, int64 [N] or float [N, C]."""

    @property
    def per_example(self) -> bool:
        """Whether the values are those of single examples; False: each may be the mean over the batch."""
        return True

    def network(self, model: Model, context: Context) -> nn.Module:
        """The network that computes the logits: the model's, unless the loss adds a last layer of its own."""
        return model.build(context)


class BuiltLoss(Loss, ABC):
    """Base class of losses that depend on the classes of the data. `build(context)` returns the callable nn.Module."""

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise TypeError(
            f"{type(self).__name__} depends on the classes of the data; call the module that build(context) returns"
        )


class ByClass(nn.Module):
    """Module that calls `function(logits, targets, numbers) -> [N]`, with one number per class, float [C], as a buffer.

    The buffer is not saved: a resumed run computes it again from the declaration and the data.
    """

    numbers: torch.Tensor

    def __init__(self, function: Callable[..., torch.Tensor], numbers: torch.Tensor):
        super().__init__()
        self.function = function
        self.register_buffer("numbers", numbers.float(), persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.function(logits, targets, self.numbers)


def expected(per_class: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Expectation of per_class [N, C] under the targets, [N]: the value of the true class for targets int64 [N], the
    mean weighted by the probabilities for targets float [N, C]."""
    if targets.is_floating_point():
        # where, because 0 times an infinite value is NaN
        return (targets * per_class).where(targets != 0, 0.0).sum(dim=1)
    return per_class.gather(1, targets[:, None]).squeeze(1)


def probabilities(targets: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Targets, int64 [N] or float [N, C], as probabilities [N, C] with the dtype of logits [N, C]."""
    if targets.is_floating_point():
        return targets.to(logits.dtype)
    return F.one_hot(targets, logits.shape[1]).to(logits.dtype)


def weights_of(targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weight of each example, [N], from class weights, float [C]; for targets float [N, C], the expected weight."""
    # a sum, because autocast would compute a matrix product in half precision
    return (targets * weights).sum(dim=1) if targets.is_floating_point() else weights[targets]


def counts(context: Context) -> torch.Tensor:
    """Number of training samples per class, float64 [C], at least 1, so that weights of empty classes are finite."""
    return torch.tensor(context.class_counts, dtype=torch.float64).clamp(min=1)


Named = tuple[tuple[str, float], ...]
"""Numbers by class name; classes that are not named have 1."""


def number_per_class(value: Any) -> tuple[float, ...] | Named | str | None:
    """Parse class weights: a sequence or text ("1,2,0.5") of one number per class, numbers by class name ("cat=2,dog=1"
    or {"cat": 2, "dog": 1}), "balanced", or None.

    Raises ValueError for anything else, for a name that occurs twice, for negative or infinite numbers, and if all
    numbers are 0.
    """
    if value is None or value == "balanced":
        return None if value is None else "balanced"
    try:
        items = value.split(",") if isinstance(value, str) else value.items() if isinstance(value, dict) else value
        pairs = [_pair(item) for item in items]
    except (TypeError, ValueError):
        pairs = []
    names, numbers = [name for name, _ in pairs], tuple(number for _, number in pairs)
    unclear = any(names) and (not all(names) or len(set(names)) < len(names))
    if unclear or not any(numbers) or not all(0 <= number < float("inf") for number in numbers):
        raise ValueError(
            "should be balanced, none, one nonnegative number per class, or numbers by class name (cat=2,dog=1), not "
            "all of them 0"
        )
    return tuple(pairs) if any(names) else numbers


def _pair(item: Any) -> tuple[str, float]:
    """(class name, number) of "cat=2" or ("cat", 2); the name of a number alone is empty."""
    if isinstance(item, str):
        item = item.rpartition("=")[::2]
    name, number = item if isinstance(item, Sequence) else ("", item)
    return str(name).strip(), float(number)


def in_order(given: tuple[float, ...] | Named, classes: Sequence[str], field: str) -> torch.Tensor:
    """Numbers of the classes, float [C], in their order. field: name of the field, for messages. Raises ValueError for
    unknown names and for another count than that of the classes."""
    named = {item[0]: item[1] for item in given if isinstance(item, tuple)}
    if unknown := [name for name in named if name not in classes]:
        known = did_you_mean(unknown[0], classes) or f"; the classes are {listed(classes)}"
        raise ValueError(f"{field}: {unknown[0]} is not a class of the data{known}")
    if named:
        return torch.tensor([named.get(name, 1.0) for name in classes])
    if len(given) != len(classes):
        raise ValueError(f"{field}: got {len(given)} weights for {len(classes)} classes; give one weight per class")
    return torch.tensor(given)
