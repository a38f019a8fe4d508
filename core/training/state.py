"""The complete state of training. Nothing else changes during a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from core.methods import Forward
from core.optimizers.averaging import MovingAverage
from core.training import distributed
from core.training.parallel import Parallel

OWN = 3  # sums that every method has; these decide whether a step was skipped


class Stopwatch:
    """Training time of a run in seconds, across interruptions: since `start`, plus the time loaded from a
    checkpoint."""

    def __init__(self) -> None:
        self._before = 0.0
        self._began: float | None = None

    def start(self) -> None:
        """Start counting; a no-op if already started."""
        self._began = self._began if self._began is not None else time.monotonic()

    def seconds(self) -> float:
        """Training time so far, in seconds."""
        return self._before + (time.monotonic() - self._began if self._began is not None else 0.0)

    def state_dict(self) -> dict[str, float]:
        """{"seconds": training time so far}"""
        return {"seconds": self.seconds()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Load the training time so far; counting restarts with `start`."""
        self._before, self._began = state_dict["seconds"], None


@dataclass
class State:
    """Everything that training changes, and therefore everything that a checkpoint must hold.

    trained: a ModuleDict of "model" and, if they have weights or buffers, "loss" and "method".
    forward: `trained` as one module, (batch, clock) -> Output.  shared: the same, with gradients averaged over all
    processes.
    history: metrics of each finished epoch.  step: optimizer steps done.
    sums: over the steps of the current epoch, [mean loss, correct predictions, gradient norm, each extra of the
    method], on the device; each is the mean over all processes, so that their states are equal.
    seen: value of `sums` at the end of the last logging interval.
    ema: exponential moving average of the weights.  swa: equal average of the weights at the end of the last epochs.
    stopwatch: set if training time is limited.
    apart: what differs between processes, so that a checkpoint holds that of each; see core/training/exchange.py.
    masks: False for the weights that are pruned, by the name of their parameter; see core/training/pruning.py.
    parallel: how all of this is divided among processes.
    split: number of micro-batches for each declared one; more than 1 once memory has run out, see
    core/training/memory.py.
    """

    trained: nn.ModuleDict
    forward: Forward
    optimizer: torch.optim.Optimizer
    parallel: Parallel
    ema: MovingAverage | None = None
    scaler: torch.amp.GradScaler | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    step: int = 0
    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(OWN, dtype=torch.float64))
    seen: list[float] = field(default_factory=lambda: [0.0] * OWN)
    swa: AveragedModel | None = None
    stopwatch: Stopwatch | None = None
    masks: dict[str, torch.Tensor] = field(default_factory=dict)
    split: int = 1
    apart: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        self.shared: Callable[..., Any] = self.forward.step

    @property
    def model(self) -> nn.Module:
        """The network being trained."""
        return self.trained["model"]

    @property
    def sound(self) -> bool:
        """Whether no step of this epoch was skipped. Synchronizes with the device."""
        return bool(torch.isfinite(self.sums[:OWN]).all())

    def make_room(self, extras: int) -> None:
        """Make room in `sums` for what the method reports. Called before the first step."""
        self.sums = self.sums.new_zeros(OWN + extras)
        self.seen = [0.0] * (OWN + extras)

    def snapshot(self) -> dict[str, Any]:
        """Copy of the complete state on the CPU: tensors and plain values only. Every process calls `gather` then."""
        live = {name: part.state_dict() for name, part in self._stateful().items()}
        live |= {"history": self.history, "step": self.step, "sums": self.sums, "seen": self.seen}
        live |= {"masks": self.masks, "split": self.split}
        copied: dict[str, Any] = _copied(live)
        return copied | ({"apart": self.gather()} if self.apart else {})

    def gather(self) -> list[Any]:
        """Copies of what differs between processes, [rank][part]; [] if nothing does, without waiting for others."""
        return distributed.gathered(_copied([part.state_dict() for part in self.apart])) if self.apart else []

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Load a snapshot. The state must be built from the same declaration."""
        for name, part in self._stateful().items():
            part.load_state_dict(snapshot[name])
        for part, own in zip(self.apart, distributed.own_of(snapshot.get("apart", [])) or (), strict=False):
            part.load_state_dict(own)
        self.history, self.step, self.seen = snapshot["history"], snapshot["step"], snapshot["seen"]
        self.sums[: len(self.seen)].copy_(snapshot["sums"])
        if lacking := len(self.sums) - len(self.seen):  # written before methods reported extras, which stay unknown
            self.sums[-lacking:] = math.nan
            self.seen = [*self.seen, *[math.nan] * lacking]
        # checkpoints that were written before there was pruning have no masks
        self.masks = {name: mask.to(self.sums.device) for name, mask in snapshot.get("masks", {}).items()}
        self.split = snapshot.get("split", 1)  # nor were micro-batches ever divided

    def keep_buffers(self) -> None:
        """Copy the buffers of `trained`, which a forward pass changes, for `reset_buffers`."""
        buffers, copies = self._buffers
        if buffers:
            torch._foreach_copy_(copies, buffers)  # a third of the time of a loop

    def reset_buffers(self) -> None:
        """Set the buffers of `trained` to what they were when `keep_buffers` was last called."""
        for tensor, kept in zip(*self._buffers, strict=True):
            tensor.copy_(kept)

    @cached_property
    def _buffers(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """(the buffers of `trained`, tensors of the same shapes)."""
        buffers = list(self.trained.buffers())
        return buffers, [torch.empty_like(tensor) for tensor in buffers]

    def _stateful(self) -> dict[str, Any]:
        parts = {"trained": self.trained, "optimizer": self.optimizer, "ema": self.ema, "scaler": self.scaler}
        parts |= {"swa": self.swa, "stopwatch": self.stopwatch}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated and saved: the weight average if declared (SWA once it has started, else EMA),
        otherwise the network being trained."""
        if self.swa is not None and self.swa.n_averaged > 0:
            return self.swa.module
        return self.ema.module if self.ema is not None else self.model


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value
