"""Several processes that train one run: what they add up, and that all of them do the same.

In a process on its own every function here does nothing, at no cost: nobody asks how many there are.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from core.common.errors import PeerLost, UserError
from core.common.ranks import Ranks, ranks_here

T = TypeVar("T")
_TRANSPORT = re.compile(r"gloo|nccl|c10d|Connection (closed|reset)|Broken pipe", re.IGNORECASE)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes, if there are any, and part from them at the end. Within another, it does nothing."""
    here = ranks_here()
    if "RANK" not in os.environ or dist.is_initialized():
        yield here
        return
    store, rank, ranks = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=_met(store, rank, ranks), rank=rank, world_size=ranks)
    try:
        yield here
        with peers():
            dist.barrier()  # torchrun's agents end with their processes, and one of them keeps what all need
    finally:
        _device_groups.clear()
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


_meetings = 0  # that this job has had, this one included; known to the first process


def met_before() -> bool:
    """Whether the processes of this job met once before: one of them has died, and all were started again."""
    return _meetings > 1


def _met(store: dist.Store, rank: int, ranks: int) -> dist.Store:  # type: ignore[name-defined]
    """The part of a store that these very processes share.

    torchrun keeps one store over restarts, in which the addresses of dead processes still stand, and its agents do not
    count restarts alike. So the first process gives each meeting a name, and answers everyone who comes to it.
    """
    own = secrets.token_hex(8)
    if rank == 0:
        global _meetings
        _meetings = store.add("meetings", 1)
        store.set("meeting", own)
        for other in range(1, ranks):
            store.set(f"{own} {other} {store.get(f'{own} {other}').decode()}", "welcome")
        return dist.PrefixStore(own, store)  # type: ignore[attr-defined]
    while True:
        meeting = store.get("meeting").decode()
        store.set(f"{meeting} {rank}", own)
        with contextlib.suppress(dist.DistStoreError):  # nobody answers in a meeting that is over: ask for the next
            store.wait([f"{meeting} {rank} {own}"], timedelta(seconds=1))
            return dist.PrefixStore(meeting, store)  # type: ignore[attr-defined]


@contextmanager
def peers() -> Iterator[None]:
    """Raises PeerLost for what torch says when the connection to another process breaks."""
    try:
        yield
    except RuntimeError as error:
        if dist.is_initialized() and (isinstance(error, dist.DistError) or _TRANSPORT.search(str(error))):
            raise PeerLost("another process of this run has gone; what it said stands in its own output") from error
        raise


_device_groups: dict[str, dist.ProcessGroup] = {}


def _group(device: torch.device) -> dist.ProcessGroup | None:
    """gloo, the default, for tensors on a CPU; nccl for those on a GPU."""
    if device.type != "cuda":
        return None
    if "nccl" not in _device_groups:
        _device_groups["nccl"] = dist.new_group(backend="nccl", device_id=device)  # type: ignore[assignment]
    return _device_groups["nccl"]


def shared(
    forward: nn.Module, probe: Callable[[nn.Module], None], device: torch.device
) -> DistributedDataParallel | None:
    """`forward` with its gradients averaged over all processes; None for a process alone. probe: a small forward and
    backward pass.

    The probe tells which parameters take no part, and has DistributedDataParallel arrange its buckets, which it does
    after the first backward pass: sums over more than two processes depend on it, and a resumed run has to begin with
    the same.
    """
    if not dist.is_initialized():
        return None
    before = {name: tensor.clone() for name, tensor in forward.state_dict().items()}
    probe(forward)
    unused = any(p.requires_grad and p.grad is None for p in forward.parameters())
    forward.zero_grad(set_to_none=True)
    wrapped = DistributedDataParallel(forward, process_group=_group(device), find_unused_parameters=unused)
    probe(wrapped)
    forward.zero_grad(set_to_none=True)
    forward.load_state_dict(before)
    return wrapped


def sync_norms(module: nn.Module, device: torch.device) -> None:
    """BatchNorm with the statistics of all processes (torch.nn.SyncBatchNorm). Raises UserError on a CPU."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    if device.type != "cuda":
        advice = "use a norm that needs none (--model.norm group), or GPUs"
        raise UserError([f"sync_batch_norm: torch has none for a {device.type} device; {advice}"])
    converted(module, _group(device))


def converted(module: nn.Module, group: dist.ProcessGroup | None) -> nn.Module:
    """The module with SyncBatchNorm in the place of BatchNorm, forward hooks (stochastic depth, fp32) kept."""
    before = {name: norm for name, norm in module.named_modules() if isinstance(norm, _BatchNorm)}
    module = nn.SyncBatchNorm.convert_sync_batchnorm(module, group)
    for name, norm in before.items():
        hooks = {field: value for field, value in vars(norm).items() if field.startswith("_forward_")}
        vars(module.get_submodule(name)).update(hooks)
    return module


def last_of(forward: Callable[..., object], is_last: bool) -> AbstractContextManager[None]:
    """Around one part of a batch: gradients are averaged with those of the last part, and not before."""
    return nullcontext() if is_last or not isinstance(forward, DistributedDataParallel) else forward.no_sync()


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place. No host waits for a GPU."""
    if dist.is_initialized():
        dist.all_reduce(tensor, group=_group(tensor.device))
    return tensor


def mean(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over all processes, in place."""
    return total(tensor).div_(dist.get_world_size()) if dist.is_initialized() else tensor


def align(module: nn.Module, everything: bool = False) -> None:
    """Take the first process's buffers, or everything that the module holds. BatchNorm's differ until then."""
    if dist.is_initialized():
        for tensor in module.state_dict().values() if everything else module.buffers():
            dist.broadcast(tensor, 0, group=_group(tensor.device))


def gathered(value: T) -> list[T]:
    """What each process gave, by rank."""
    if not dist.is_initialized():
        return [value]
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_first(value: T) -> T:
    """What the first process gave."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, 0)
    return values[0]


def together(action: Callable[[], T]) -> T:
    """What the action gives here, once it has succeeded in every process. Raises UserError in all if in one."""
    own: UserError | None = None
    try:
        result = action()
    except UserError as mistakes:
        own = mistakes
    wrong = gathered(own.lines if own else [])
    if own:
        raise own
    if lines := {line: rank for rank, lines in enumerate(wrong) for line in lines}:
        raise UserError([f"process {rank}: {line}" for line, rank in lines.items()])
    return result


class Agreement:
    """The signal that any process was sent, told to all at the same step: one later, so that nobody waits for it."""

    def __init__(self) -> None:
        self._flag = torch.zeros((), dtype=torch.int64)
        self._work: dist.Work | None = None

    def __call__(self, number: int | None) -> int | None:
        """To be asked in every process after every step. number: the signal that this one was sent."""
        if not dist.is_initialized():
            return number
        if agreed := self.settle():
            return agreed
        self._flag.fill_(number or 0)
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, async_op=True)
        return None

    def settle(self) -> int | None:
        """The answer to the last question."""
        if self._work is None:
            return None
        self._work.wait()
        self._work = None
        return int(self._flag) or None
