"""What processes send to each other for a step: compressed gradients, or their weights every few steps.

Plain gradients are the default, see `shared` in core/training/distributed.py. What is here is attached to the wrapped
network and to the optimizer once, by `arrange`; the loop and the step do not know of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from core.common.errors import UserError
from core.training import distributed
from core.training.state import State

Compression = Literal["none", "bf16", "powersgd"]
POWERSGD_RANK = 2  # as in the experiments of Vogels et al. 2019 with ResNet-18 on CIFAR-10
PLAIN_SHARE = 10  # a tenth of all steps, at the beginning, is not compressed, as the documentation of torch advises


@dataclass(frozen=True)
class Exchange:
    """compress: of gradients.  sync_every: steps between two averages of the weights; 1: gradients are averaged
    instead, at each step.  per_epoch, epochs: optimizer steps of an epoch, number of epochs."""

    compress: Compression
    sync_every: int
    per_epoch: int
    epochs: int


def arrange(state: State, how: Exchange) -> None:
    """Attach the declared exchange to a state whose `shared` is wrapped in DistributedDataParallel unless weights are
    averaged. A no-op in a single process. Raises UserError."""
    if not distributed.several() or (how.compress, how.sync_every) == ("none", 1):
        return
    if state.scaler is not None and (how.sync_every > 1 or how.compress == "powersgd"):
        name = "sync_every" if how.sync_every > 1 else "grad_compress powersgd"
        raise UserError([f"{name}: the gradient scaler of fp16 skips steps that overflow; use precision bf16 or fp32"])
    if how.sync_every > 1:
        distributed.align(state.trained, everything=True)
        state.optimizer.register_step_post_hook(_Averaging(state, how.sync_every, how.per_epoch))
        state.apart = (state.trained, state.optimizer)
        return
    assert isinstance(state.shared, DistributedDataParallel)
    group = state.shared.process_group
    if how.compress == "bf16":
        state.shared.register_comm_hook(group, bf16_compress_hook)
        return
    start = max(2, how.per_epoch * how.epochs // PLAIN_SHARE)
    low_rank = PowerSGDState(group, matrix_approximation_rank=POWERSGD_RANK, start_powerSGD_iter=start)
    state.shared.register_comm_hook(low_rank, powerSGD_hook)
    state.apart = (PowerSgd(low_rank, next(state.trained.parameters()).device),)


@dataclass(frozen=True)
class PowerSgd:
    """The state of torch's hook for PowerSGD (Vogels et al. 2019), of this process, as tensors and numbers: the errors
    of the last compression, which are added to the next gradient, and the factors from which it starts.

    Its generator draws the first factors of all buckets at one step, so it needs no state.
    """

    hook: PowerSGDState
    device: torch.device

    def state_dict(self) -> dict[str, Any]:
        """Errors and factors by the index of their bucket, and the number of steps."""
        hook = self.hook
        return {"step": hook.iter, "error": hook.error_dict, "p": hook.p_memory_dict, "q": hook.q_memory_dict}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        hook = self.hook
        hook.iter = state_dict["step"]
        hook.error_dict, hook.p_memory_dict, hook.q_memory_dict = (
            {bucket: tensor.to(self.device) for bucket, tensor in state_dict[name].items()}
            for name in ("error", "p", "q")
        )


@dataclass(frozen=True)
class _Averaging:
    """Local SGD (Lin et al. 2020, algorithm 1): after every `every` steps, and at the end of an epoch, the weights and
    the running statistics of all processes are replaced by their mean. Each process keeps its own momentum."""

    state: State
    every: int
    per_epoch: int

    def __call__(self, optimizer: torch.optim.Optimizer, *arguments: object) -> None:
        """After a step of the optimizer; `state.step` is increased later."""
        done = self.state.step + 1
        if done % self.every == 0 or done % self.per_epoch == 0:
            average(self.state.trained)


@torch.no_grad()
def average(module: torch.nn.Module) -> None:
    """Replace trained parameters and floating-point buffers by their mean over all processes, in one message for each
    dtype."""
    tensors: list[torch.Tensor] = [p for p in module.parameters() if p.requires_grad]
    tensors += [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    for _, alike in groupby(sorted(tensors, key=lambda one: str(one.dtype)), key=lambda one: one.dtype):
        each = list(alike)
        flat = distributed.mean(torch.cat([tensor.reshape(-1) for tensor in each]))
        for tensor, mean in zip(each, flat.split([tensor.numel() for tensor in each]), strict=True):
            tensor.copy_(mean.view(tensor.shape))


class SavedTogether:
    """Decides when a checkpoint is saved. If each process has a state of its own, all of them send it at the same step:
    one step after the first process finds that a checkpoint is due."""

    def __init__(self, state: State) -> None:
        self._agreed = distributed.Agreement() if state.apart else None

    def __call__(self, due: bool) -> bool:
        """Call in every process after every step. due: in the first process."""
        return due if self._agreed is None else bool(self._agreed(int(due)))

    def settle(self) -> None:
        """Wait for the last exchange."""
        if self._agreed is not None:
            self._agreed.settle()
