"""The whole state of a run. Nothing else changes while it trains."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


@dataclass
class State:
    """What training changes, and so what a checkpoint must hold.

    trained: a ModuleDict of "model" and, where they have weights or buffers, "loss" and "method".
    history: the metrics of each finished epoch.  step: optimizer steps done.
    sums: over the steps of the epoch so far, [mean loss, right predictions, gradient norm], on the device.
    seen: what `sums` was when the last interval was read.
    """

    trained: nn.ModuleDict
    optimizer: torch.optim.Optimizer
    ema: AveragedModel | None = None
    scaler: torch.amp.GradScaler | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    seen: list[float] = field(default_factory=lambda: [0.0] * 3)

    @property
    def model(self) -> nn.Module:
        """The network that is trained."""
        return self.trained["model"]

    @property
    def evaluated(self) -> nn.Module:
        """The network that is judged and kept: the average where there is one."""
        return self.ema.module if self.ema is not None else self.model


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights; buffers are copied as they are."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
