"""--parallel ddp, the default: each process has the whole network; one process alone, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.common.ranks import Ranks
from core.loading.batches import Batch
from core.models.weights import serialized, unmerged
from core.schedules import Clock
from core.training import distributed
from core.training.checkpoint import Checkpoint, NoSaver, Saver
from core.training.parallel import Saves
from core.training.state import State
from core.training.step import Setup, gradient_norm, gradients


class Replicated:
    """See `Parallel`."""

    divided = False

    def __init__(self, rank: int):
        self.rank = rank

    def shares(self, ranks: Ranks) -> Ranks:
        return ranks

    def place(self, device: torch.device) -> torch.device:
        return device

    def connect(self, parts: Any, probe: Callable[[nn.Module], None]) -> None:
        state = parts.state
        if parts.experiment.sync_every > 1:  # processes take steps of their own
            return
        with torch.compiler.set_stance("force_eager"):  # a batch of another size would be compiled apart
            state.shared = distributed.shared(state.forward, probe, parts.setup.device) or state.shared

    def gradients(self, setup: Setup, state: State, batch: Batch, clock: Clock) -> list[torch.Tensor]:
        return gradients(setup, state, state.shared, batch, clock)

    def replay(self, setup: Setup, state: State, batch: Batch, clock: Clock) -> Mapping[str, torch.Tensor]:
        gradients(setup, state, state.forward, batch, clock)
        return {name: p.grad for name, p in state.trained.named_parameters() if p.grad is not None}

    def norm(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        return gradient_norm(gradients)

    def own(self, parameters: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return parameters

    def align(self, module: nn.Module) -> None:
        distributed.align(module)

    def serialized(self, module: nn.Module) -> bytes:
        return b"" if self.rank else serialized(module)

    def load(self, module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        if not self.rank:
            module.load_state_dict(unmerged(module, weights))
        distributed.align(module, everything=True)

    def saver(self, folder: Path, every: str, belongs: dict[str, Any]) -> AbstractContextManager[Saves]:
        return NoSaver() if self.rank else Saver(folder, every, belongs)

    def restore(self, state: State, found: Checkpoint) -> None:
        state.restore(found.state)
