"""Test-time augmentation: average the predictions of a network for several views of each image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from core.common.tensors import full
from core.metrics.task import SINGLE_LABEL, Task

Views = Literal["none", "flip", "flip_shift"]


def averaged(model: nn.Module, views: Views, task: Task = SINGLE_LABEL) -> nn.Module:
    """A network that gives the logits of the mean of `model`'s probabilities over the views; `model` for none.

    Probabilities, not logits, as Krizhevsky et al. (2012, section 4.1) do: a view that is sure of one class does not
    outweigh the others. flip: the image and its mirror. flip_shift: these, and both moved by one pixel up and left and
    down and right, with the edge repeated; six views.

    To a loss that goes by no softmax (BinaryCrossEntropy, ArcFace) log-probabilities are no logits: of its figures
    test/loss alone then cannot be held against val/loss.
    """
    shifts = (-1, 0, 1) if views == "flip_shift" else (0,)
    return model if views == "none" else _Averaged(model, shifts, task)


class _Averaged(nn.Module):
    def __init__(self, model: nn.Module, shifts: tuple[int, ...], task: Task):
        super().__init__()
        self.model, self.shifts, self.task = model, shifts, task

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: float [N, C, H, W] -> [N, classes]: log-probabilities, or the logits of each label's own."""
        # one view at a time: in memory it costs what evaluation costs anyway
        return self.task.mean_of_views(torch.stack([full(self.model(view)) for view in self._views(images)]))

    def _views(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        height, width = images.shape[2:]
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate") if len(self.shifts) > 1 else images
        for shift in self.shifts:
            start = 1 - shift if len(self.shifts) > 1 else 0
            view = padded[:, :, start : start + height, start : start + width]
            yield view
            yield view.flip(3)
