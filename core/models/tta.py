"""Test-time augmentation: average the predictions of a network for several views of each image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from core.common.tensors import full
from core.metrics.task import SINGLE_LABEL, Task

Views = Literal["none", "flip", "flip_shift", "flip_shift_half"]


def averaged(model: nn.Module, views: Views, task: Task = SINGLE_LABEL) -> nn.Module:
    """A network that gives the logits of the mean of `model`'s probabilities over the views; `model` for none.

    Probabilities, not logits, as Krizhevsky et al. (2012, section 4.1) do: a view that is sure of one class does not
    outweigh the others. flip: the image and its mirror. flip_shift: these, and both moved by one pixel up and left and
    down and right, with the edge repeated; six views. flip_shift_half: the same views, of which the two that are not
    moved have half of the weight, 1/4 each, and the others 1/8 each, as in airbench (Jordan 2024, section 3), which
    averages logits.

    To a loss that goes by no softmax (BinaryCrossEntropy, ArcFace) log-probabilities are no logits: of its figures
    test/loss alone then cannot be held against val/loss.
    """
    shifts = (0,) if views == "flip" else (-1, 0, 1)
    weights = (1, 1, 2, 2, 1, 1) if views == "flip_shift_half" else None
    return model if views == "none" else _Averaged(model, shifts, task, weights)


class _Averaged(nn.Module):
    def __init__(self, model: nn.Module, shifts: tuple[int, ...], task: Task, weights: tuple[int, ...] | None):
        super().__init__()
        self.model, self.shifts, self.task = model, shifts, task
        self.weights = None if weights is None else [weight / sum(weights) for weight in weights]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images: float [N, C, H, W] -> [N, classes]: log-probabilities, or the logits of each label's own."""
        # one view at a time: in memory it costs what evaluation costs anyway
        found = torch.stack([full(self.model(view)) for view in self._views(images)])
        return self.task.mean_of_views(found, None if self.weights is None else found.new_tensor(self.weights))

    def _views(self, images: torch.Tensor) -> Iterator[torch.Tensor]:
        height, width = images.shape[2:]
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate") if len(self.shifts) > 1 else images
        for shift in self.shifts:
            start = 1 - shift if len(self.shifts) > 1 else 0
            view = padded[:, :, start : start + height, start : start + width]
            yield view
            yield view.flip(3)
