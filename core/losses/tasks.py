"""TaskLosses, a loss for each of several tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import nn

from core.common.blocks import of_task, own_names, spans
from core.common.text import did_you_mean
from core.losses.base import BuiltLoss, Loss, Named, number_per_class
from core.losses.cross_entropy import CrossEntropy
from core.losses.total import adds_layers

if TYPE_CHECKING:
    from core.context import Context


class TaskLosses(BuiltLoss):
    """A loss for each of several tasks and their weighted sum, the objective of multi-task learning (Caruana 1997).

    The network has a single last layer with the classes of all tasks, which is a linear head for each of them. logits
    [N, C], of which each loss gets the columns of its task; targets float [N, C] with one-hot blocks; returns [N]. An
    image without a label of a task has the loss 0 for it, so that it is left out of the gradients of this task. Each
    loss is measured for val and test by itself, without its weight, as a mean over all images: val/loss_TASK.
    """

    single_label: ClassVar[bool] = False
    several_tasks: ClassVar[bool] = True
    instead: ClassVar[str] = "use CrossEntropy, or BinaryCrossEntropy for multi-label images"

    losses: tuple[Loss, ...] = Field(
        (), description="loss of each task, in the order of data.tasks; none: cross-entropy for each"
    )
    weights: tuple[float, ...] | Named | None = Field(
        None,
        description="weights of the losses in the order of the tasks, e.g. 1,0.5, or by the name of a task, e.g. "
        "color=2 (others 1); none: all 1. A task with the weight 0 is measured and not trained",
    )

    @field_validator("weights", mode="plain")
    @classmethod
    def _weights_are_one_number_a_task(cls, value: Any) -> Any:
        try:
            if value == "balanced":
                raise ValueError
            return number_per_class(value)
        except ValueError:
            text = "should be none, one nonnegative number per task, or numbers by task (color=2), not all of them 0"
            raise ValueError(text) from None

    def check(self) -> None:
        for loss in self.losses:
            name = type(loss).__name__
            if adds_layers(loss):
                raise ValueError(f"losses: {name} adds a last layer to the network, which all tasks share; use another")
            if not loss.per_example:
                raise ValueError(
                    f"losses: {name} is the mean over a batch, of which images without a label cannot be left out; "
                    "declare its reduction as none, or use another"
                )

    def by_task(self, tasks: Sequence[str]) -> dict[str, tuple[Loss, float]]:
        """{task: (its loss, its weight)}. Raises ValueError if they do not fit the tasks."""
        names = ", ".join(tasks)
        losses = self.losses or (CrossEntropy(),) * len(tasks)
        if len(losses) != len(tasks):
            number = f"{len(losses)} loss" + "es" * (len(losses) != 1)
            raise ValueError(
                f"loss.losses: got {number} for {len(tasks)} tasks ({names}); give one for each, in this order"
            )
        named = {item[0]: item[1] for item in self.weights or () if isinstance(item, tuple)}
        if unknown := [name for name in named if name not in tasks]:
            hint = did_you_mean(unknown[0], tasks) or f"; the tasks are {names}"
            raise ValueError(f"loss.weights: {unknown[0]} is no task of the data{hint}")
        ordered = [item for item in self.weights or () if not isinstance(item, tuple)]
        weights = ordered or [named.get(name, 1.0) for name in tasks]
        if len(weights) != len(tasks):
            raise ValueError(f"loss.weights: got {len(weights)} weights for {len(tasks)} tasks ({names})")
        return {task: (loss, weight) for task, loss, weight in zip(tasks, losses, weights, strict=True)}

    def build(self, context: Context) -> nn.Module:
        if not context.tasks:
            raise ValueError("loss: TaskLosses needs data of several tasks; of a single one, take its loss alone")
        columns, chosen = dict(spans(context.tasks)), self.by_task([name for name, _ in context.tasks])
        built = {task: loss.build(_of_task(context, task)) for task, (loss, _) in chosen.items()}
        return _Tasks(columns, built, [weight for _, weight in chosen.values()])


def _of_task(context: Context, task: str) -> Context:
    """The context of a single task. train_size: number of images that have a label of it."""
    counts = of_task(context.tasks, task, context.class_counts)
    classes = own_names(context.tasks, task, context.classes)
    return replace(context, classes=classes, class_counts=counts, train_size=sum(counts), tasks=())


class _Tasks(nn.Module):
    """Built losses with the columns of their tasks and their weights. Those that are modules become submodules."""

    def __init__(self, columns: Mapping[str, slice], losses: Mapping[str, Any], weights: Sequence[float]):
        super().__init__()
        self.columns, self.losses, self.weights = dict(columns), dict(losses), tuple(weights)
        self.modules_of = nn.ModuleList([loss for loss in losses.values() if isinstance(loss, nn.Module)])

    @property
    def terms(self) -> Mapping[str, Callable[..., torch.Tensor]]:
        """The losses, to be measured by themselves, by the name of their metric."""
        return {f"loss_{task}": partial(self._of, task) for task in self.columns}

    def _of(self, task: str, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        columns = self.columns[task]
        own = targets[:, columns]
        values: torch.Tensor = self.losses[task](logits[:, columns], own.argmax(dim=1))
        return values.where(own.sum(dim=1) > 0, 0.0)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        trained = [(task, weight) for task, weight in zip(self.columns, self.weights, strict=True) if weight]
        return torch.stack([weight * self._of(task, logits, targets) for task, weight in trained]).sum(dim=0)
