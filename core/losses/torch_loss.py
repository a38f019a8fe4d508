"""TorchLoss: a loss of torch.nn by its name, or a module that a function of yours makes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from core.common.factory import Factory, called, label_of, said
from core.common.tensors import full
from core.common.text import did_you_mean
from core.losses.base import BuiltLoss

if TYPE_CHECKING:
    from core.context import Context


class TorchLoss(BuiltLoss):
    """A loss of torch.nn by its name, or a module of yours, which may return the mean over the batch.

    TorchLoss(name="CrossEntropyLoss", arguments={"label_smoothing": 0.1}), or TorchLoss(factory="my_project:MyLoss").
    logits [N, C], float32; targets int64 [N], or float [N, C] once they are mixed. With `reduction` "none" among the
    arguments, and for a module that returns [N] or [N, C] (of which the mean over classes is taken), each example has
    its loss. Otherwise each gets that of the whole (micro-)batch: its mean and its gradient are those of the module.
    ClassBalanced cannot weigh it then, images with a loss that is not finite are not named, and where the module does
    more than average (as `weight` does), the values depend on the sizes of batches.
    """

    name: str | None = Field(None, description="class name of a loss in torch.nn, e.g. MultiMarginLoss")
    factory: Factory | None = Field(
        None, description="package.module:name of a function or class that returns the loss as an nn.Module"
    )
    arguments: dict[str, Any] = Field(
        {}, description="keyword arguments of the loss or of the factory; for torch.nn, lists become tensors"
    )
    targets: Literal["classes", "labels"] = Field(
        "classes",
        description="targets that the module takes: classes, int64 [N]; labels, float [N, C], as BCEWithLogitsLoss and "
        "MSELoss do, also of multi-label images",
    )

    @property
    def multi_label(self) -> bool:  # type: ignore[override]
        return self.targets == "labels"

    @property
    def per_example(self) -> bool:
        return bool(self.arguments.get("reduction") == "none")

    def label(self) -> str:
        return label_of(self.name, self.factory)

    def check(self) -> None:
        if (self.name is None) == (self.factory is None):
            raise ValueError("either name, of a loss in torch.nn, or factory must be given")
        self._made()

    def build(self, context: Context) -> nn.Module:
        """The module. Raises ValueError if it fails for logits and targets of the data, or returns another shape."""
        built = _Module(self._made(), self.targets == "labels", self.per_example)
        classes = len(context.classes)
        called_with = f"logits [2, {classes}] and targets {f'[2, {classes}]' if self.targets == 'labels' else '[2]'}"
        try:
            found = copy.deepcopy(built).module(torch.zeros(2, classes), built.taken(torch.arange(2), classes))
        except Exception as error:  # whatever the code of a user raises
            hint = "; try targets: labels" if self.targets == "classes" else ""
            raise ValueError(f"loss: {self._title()} failed for {called_with}: {said(error)}{hint}") from None
        if not isinstance(found, torch.Tensor) or found.shape not in ((), (2,), (2, classes)):
            what = f"shape {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(f"loss: {self._title()} gives {what} for {called_with}; expected a scalar, [2] or [2, C]")
        return built

    def _title(self) -> str:
        return f"torch.nn.{self.name}" if self.name else str(self.factory)

    def _made(self) -> nn.Module:
        """Raises ValueError, UserError included."""
        if self.factory:
            made = called(self.factory, self.arguments)
        else:
            known = [name for name in dir(nn) if name.endswith("Loss")]
            if self.name not in known:
                raise ValueError(f"torch.nn has no loss {self.name}{did_you_mean(str(self.name), known)}")
            tensors = {n: torch.tensor(v) if isinstance(v, list | tuple) else v for n, v in self.arguments.items()}
            made = called(f"torch.nn:{self.name}", tensors)
        if not isinstance(made, nn.Module):
            raise ValueError(f"{self._title()} returned {type(made).__name__}, which is no nn.Module")
        return made


class _Module(nn.Module):
    """A module whose scalar, [N] or [N, C] becomes [N]. per_example: it is known not to return a scalar."""

    def __init__(self, module: nn.Module, labels: bool, per_example: bool):
        super().__init__()
        self.module, self.labels, self.per_example = module, labels, per_example

    def taken(self, targets: torch.Tensor, classes: int) -> torch.Tensor:
        """Targets as the module takes them."""
        if self.labels and not targets.is_floating_point():
            return F.one_hot(targets, classes).float()
        return targets

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = full(logits)
        targets = self.taken(targets, logits.shape[1])
        targets = targets.to(logits.dtype) if targets.is_floating_point() else targets
        values: torch.Tensor = self.module(logits, targets)
        return values.flatten(1).mean(dim=1) if values.ndim > 1 else values.expand(len(logits))
