"""Torchmetric: the classification metrics of torchmetrics, by the names of their classes."""

from __future__ import annotations

import math
import re
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from pydantic import Field

from core.common.errors import UserError
from core.common.text import snake, suggestion
from core.metrics.answers import Answers
from core.metrics.base import Metric
from core.metrics.names import direction

ONE_CLASS, LABELS = "Multiclass", "Multilabel"  # beginnings of the names of the classes
_MEANINGLESS = re.compile(r"(positive|negative) samples in targets|`nan`")  # warnings: torchmetrics takes 0 instead


class Torchmetric(Metric):
    """A metric of torchmetrics.classification, such as MulticlassAUROC, or MultilabelF1Score for multi-label images.

    Recorded as the name of the class in snake_case: multiclass_auroc. Which values are better is known from
    torchmetrics.
    """

    name: str = Field(description="name of the class, which begins with Multiclass or Multilabel")
    arguments: dict[str, Any] = Field(
        {}, description="its keyword arguments; num_classes or num_labels need not be given"
    )

    def label(self) -> str:
        return snake(self.name)

    @property
    def single_label(self) -> bool:
        """Whether it takes images with one class each."""
        return self.name.startswith(ONE_CLASS)

    @property
    def multi_label(self) -> bool:
        """Whether it takes images with any number of labels."""
        return self.name.startswith(LABELS)

    def check(self) -> None:
        self._kind()

    def direction(self) -> int | None:
        larger = self._kind().higher_is_better
        return direction(self.label()) if larger is None else 1 if larger else -1

    def value(self, answers: Answers) -> float:
        import torch

        size = {"num_labels" if answers.multi_label else "num_classes": len(answers.classes)}
        scores = torch.from_numpy(answers.probabilities.astype(np.float32))
        try:
            metric = self._kind()(**size, **self.arguments)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                value = metric(scores, torch.from_numpy(answers.targets).long())
        except UserError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError([str(error).splitlines()[0]]) from None
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            raise UserError(["it is not a single number; if it takes an average, use one, such as average=macro"])
        return math.nan if any(_MEANINGLESS.search(str(one.message)) for one in said) else float(value)

    def _kind(self) -> Any:
        """The class. Raises UserError."""
        known = names(ONE_CLASS, LABELS)
        if self.name not in known:
            raise UserError([f"{self.name} is no metric of torchmetrics{suggestion(self.name, known)}"])
        return getattr(library(), self.name)


def library() -> ModuleType:
    """torchmetrics.classification. Raises UserError if it is not installed."""
    try:
        from torchmetrics import classification
    except ImportError:
        raise UserError(['torchmetrics is not installed; install it with pip install -e ".[metrics]"']) from None
    return classification


def names(*beginnings: str) -> list[str]:
    """The names of its metrics that begin like this. Raises UserError if it is not installed."""
    return [name for name in dir(library()) if name.startswith(beginnings)]
