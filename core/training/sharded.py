"""--parallel fsdp: each process has a shard of every weight, through torch's `fully_shard` (Zhao et al. 2023).

The weights of a block are gathered for its forward and its backward pass only. Optimizer, clipping and moving averages
work on the shards, which are ordinary tensors that share the memory of the network's parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from core.common.errors import UserError
from core.common.ranks import Ranks
from core.loading.batches import Batch
from core.models.weights import packed
from core.schedules import Clock
from core.training import distributed, pieces
from core.training.checkpoint import Checkpoint
from core.training.parallel import FSDP, Saves, refuse_built, replace_parameters
from core.training.state import State
from core.training.step import Setup, gradients

_LISTS = (nn.Sequential, nn.ModuleList)


class Sharded:
    """See `Parallel`. own: see core/training/pieces.py."""

    divided = True

    def __init__(self) -> None:
        self.own_shards: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def shares(self, ranks: Ranks) -> Ranks:
        return ranks

    def place(self, device: torch.device) -> torch.device:
        return torch.device("cpu")  # the whole network may be too large for a GPU

    def connect(self, parts: Any, probe: Callable[[nn.Module], None]) -> None:
        state, device = parts.state, parts.setup.device
        network, self.device = state.model, device
        refuse_built(FSDP, state.trained, state.scaler is not None)
        parts.flops()  # counted while there is a whole network
        if scalars := [name for name, parameter in network.named_parameters() if not parameter.ndim]:
            raise UserError([f"parallel fsdp: the weight {scalars[0]} is a single number, which torch does not shard"])
        parameters = list(state.trained.parameters())
        names = [name for name, _ in state.trained.named_parameters()]
        group = distributed.group_of(device) or dist.group.WORLD
        assert group is not None
        mesh = DeviceMesh.from_group(group, device.type)
        for module in (network, *(average.module for average in (state.ema, state.swa) if average is not None)):
            _shard(module, mesh)
        state.trained.to(device)
        whole = dict(zip(parameters, state.trained.parameters(), strict=True))
        local = {before: nn.Parameter(_local(now), now.requires_grad) for before, now in whole.items()}
        replace_parameters(state.optimizer, local)
        self.own_shards = {name: (whole[each], local[each]) for name, each in zip(names, parameters, strict=True)}
        self._of = {id(whole[each]): local[each] for each in parameters}

    def gradients(self, setup: Setup, state: State, batch: Batch, clock: Clock) -> list[torch.Tensor]:
        for parameter, _ in self.own_shards.values():
            parameter.grad = None
        found = gradients(setup, state, state.forward.step, batch, clock)
        for parameter, shard in self.own_shards.values():
            shard.grad = None if parameter.grad is None else _local(parameter.grad)
        return found

    def replay(self, setup: Setup, state: State, batch: Batch, clock: Clock) -> Mapping[str, torch.Tensor]:
        self.gradients(setup, state, batch, clock)
        return {name: shard.grad for name, (_, shard) in self.own_shards.items() if shard.grad is not None}

    def norm(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        return distributed.norm_of_parts(gradients, self.device)

    def own(self, parameters: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [self._of[id(parameter)] for parameter in parameters]

    def align(self, module: nn.Module) -> None:
        distributed.align(module)

    def serialized(self, module: nn.Module) -> bytes:
        rank, whole = dist.get_rank(), {}
        for name, tensor in module.state_dict().items():  # one at a time, so that no device has to hold all of them
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if not rank:
                whole[name] = full.cpu()
        return b"" if rank else packed(whole)

    def load(self, module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(module, dict(weights), options=options)

    def saver(self, folder: Path, every: str, belongs: dict[str, Any]) -> AbstractContextManager[Saves]:
        return pieces.ShardSaver(folder, every, belongs, self.own_shards)

    def restore(self, state: State, found: Checkpoint) -> None:
        pieces.load(state, found, self.own_shards)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The shard of this process, which shares the memory of the tensor."""
    assert isinstance(tensor, DTensor)
    with torch.no_grad():
        shard: torch.Tensor = tensor.to_local()
    return shard


def _shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard a network block by block; what is in no block is gathered with the network itself."""
    network.to(memory_format=torch.contiguous_format)  # torch shards no weights in channels_last
    for block in blocks(network):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that are gathered one at a time: the items of the outermost lists (Sequential, ModuleList) of modules
    that have weights; of a list in a list, its items."""
    for child in module.children():
        listed = isinstance(module, _LISTS) and any(True for _ in child.parameters())
        if listed and not isinstance(child, _LISTS):
            yield child
        else:
            yield from blocks(child)
