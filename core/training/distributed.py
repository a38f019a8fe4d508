"""Distributed training of one run in several processes: collective operations and agreement between processes.

In a single process, every function here is a no-op, so that callers need not distinguish the two cases.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from itertools import zip_longest
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.common.errors import PeerLost, UserError
from core.common.ranks import RENDEZVOUS, Ranks, ranks_here
from core.common.tensors import BatchNorm
from core.training import rendezvous

T = TypeVar("T")
_TRANSPORT = re.compile(r"gloo|nccl|c10d|Connection (closed|reset)|Broken pipe", re.IGNORECASE)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Initialize the process group, if torchrun started several processes or LABBOOK_RENDEZVOUS says where they meet,
    and destroy it at exit. Nested, a no-op. Raises UserError."""
    here = ranks_here()
    if not {"RANK", RENDEZVOUS} & os.environ.keys() or dist.is_initialized():
        yield here
        return
    with rendezvous.explained():
        if rendezvous.address() == "mpi://":
            dist.init_process_group("mpi")
        else:
            store, rank, ranks = rendezvous.meet()
            dist.init_process_group("gloo", store=_met(store, rank, ranks), rank=rank, world_size=ranks)
    try:
        yield here
        with peers():
            dist.barrier()  # torchrun's agents end with their processes, and one of them hosts the store that all use
        rendezvous.forget()
    finally:
        _device_groups.clear()
        _pairs.clear()
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


_meetings = 0  # number of rendezvous of this job, including this one; known to rank 0


def met_before() -> bool:
    """Whether the processes of this job have been restarted, after one of them died."""
    return _meetings > 1


def _met(store: dist.Store, rank: int, ranks: int) -> dist.Store:  # type: ignore[name-defined]
    """A view of the store that only the present processes share.

    torchrun keeps one store across restarts, which still holds the addresses of dead processes, and its agents do not
    agree on the number of restarts. So rank 0 gives each rendezvous a name, and acknowledges every process that joins.
    """
    own = secrets.token_hex(8)
    if rank == 0:
        global _meetings
        _meetings = store.add("meetings", 1)
        store.set("meeting", own)
        for other in range(1, ranks):
            store.set(f"{own} {other} {store.get(f'{own} {other}').decode()}", "welcome")
        return dist.PrefixStore(own, store)  # type: ignore[attr-defined]
    end = time.monotonic() + store.timeout.total_seconds()
    while time.monotonic() < end:
        meeting = store.get("meeting").decode()
        store.set(f"{meeting} {rank}", own)
        with contextlib.suppress(dist.DistStoreError):  # a past rendezvous is never acknowledged: read the next name
            store.wait([f"{meeting} {rank} {own}"], timedelta(seconds=1))
            return dist.PrefixStore(meeting, store)  # type: ignore[attr-defined]
    raise dist.DistStoreError("process 0 did not come")


@contextmanager
def peers() -> Iterator[None]:
    """Turn the errors that torch raises when the connection to another process breaks into PeerLost."""
    try:
        yield
    except RuntimeError as error:
        if dist.is_initialized() and (isinstance(error, dist.DistError) or _TRANSPORT.search(str(error))):
            raise PeerLost("another process of this run ended unexpectedly; its own output shows the reason") from error
        raise


_device_groups: dict[str, dist.ProcessGroup] = {}
_pairs: list[dist.ProcessGroup] = []  # of `total_in_pairs`, those with this process


def group_of(device: torch.device) -> dist.ProcessGroup | None:
    """The process group for tensors on a device: gloo, the default, for a CPU; nccl for a GPU."""
    if device.type != "cuda":
        return None
    if "nccl" not in _device_groups:
        _device_groups["nccl"] = dist.new_group(backend="nccl", device_id=device)  # type: ignore[assignment]
    return _device_groups["nccl"]


def shared(
    forward: nn.Module, probe: Callable[[nn.Module], None], device: torch.device
) -> DistributedDataParallel | None:
    """Wrap `forward` in DistributedDataParallel; None in a single process. probe: a small forward and backward pass.

    The probe shows which parameters are unused, and makes DistributedDataParallel arrange its buckets, which it does
    after the first backward pass: the order of sums over more than two processes depends on them, so a resumed run must
    start with the same buckets.
    """
    if not dist.is_initialized():
        return None
    before = {name: tensor.clone() for name, tensor in forward.state_dict().items()}
    probe(forward)
    unused = any(p.requires_grad and p.grad is None for p in forward.parameters())
    forward.zero_grad(set_to_none=True)
    wrapped = DistributedDataParallel(forward, process_group=group_of(device), find_unused_parameters=unused)
    probe(wrapped)
    forward.zero_grad(set_to_none=True)
    forward.load_state_dict(before)
    return wrapped


def sync_norms(module: nn.Module, device: torch.device) -> None:
    """Replace BatchNorm by torch.nn.SyncBatchNorm, which uses the statistics of all processes. Raises UserError on a
    CPU."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    if device.type != "cuda":
        advice = "use --model.norm group, or GPUs"
        raise UserError([f"sync_batch_norm: torch does not support it on a {device.type} device; {advice}"])
    converted(module, group_of(device))


def converted(module: nn.Module, group: dist.ProcessGroup | None) -> nn.Module:
    """Replace BatchNorm by SyncBatchNorm, keeping forward hooks (stochastic depth, fp32)."""
    before = {name: norm for name, norm in module.named_modules() if isinstance(norm, BatchNorm)}
    module = nn.SyncBatchNorm.convert_sync_batchnorm(module, group)
    for name, norm in before.items():
        hooks = {field: value for field, value in vars(norm).items() if field.startswith("_forward_")}
        vars(module.get_submodule(name)).update(hooks)
    return module


def several() -> bool:
    """Whether this run has a process group, of one process or more."""
    return dist.is_initialized()


def last_of(forward: Callable[..., object], is_last: bool) -> AbstractContextManager[None]:
    """Context of one micro-batch: gradients are averaged over processes with the last micro-batch only."""
    return nullcontext() if is_last or not isinstance(forward, DistributedDataParallel) else forward.no_sync()


def total(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all processes; in place, without synchronizing with the GPU, unless the tensor is sparse."""
    if tensor.is_sparse:
        own = tensor.coalesce().cpu()
        indices, values = zip(*gathered((own.indices(), own.values())), strict=True)
        places, counts = torch.cat(indices, dim=1), torch.cat(values)
        return torch.sparse_coo_tensor(places, counts, own.shape, check_invariants=False).coalesce()
    if dist.is_initialized():
        dist.all_reduce(tensor, group=group_of(tensor.device))
    return tensor


def mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean over all processes, in place."""
    return total(tensor).div_(dist.get_world_size()) if dist.is_initialized() else tensor


def total_in_pairs(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, a power of two of them, in place: of ranks 0 and 1, 2 and 3, ..., then of these sums in
    pairs, and so on. Each step is one addition of two values, whose order does not matter."""
    if not _pairs:
        ranks = range(dist.get_world_size())
        for bit in (1 << level for level in range(len(ranks).bit_length() - 1)):
            pairs = [[rank, rank | bit] for rank in ranks if not rank & bit]
            _pairs.append(dist.new_subgroups_by_enumeration(pairs)[0])  # type: ignore[arg-type]
    for pair in _pairs:
        dist.all_reduce(tensor, group=pair)
    return tensor


def in_turn(values: list[T]) -> list[T]:
    """Gather the values of all processes: the first of each by rank, then the second of each, and so on."""
    return [value for turn in zip_longest(*gathered(values)) for value in turn if value is not None]


def norm_of_parts(parts: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """The 2-norm of a gradient of which each process has these parts; a process may have none."""
    squares = [part.square().sum(dtype=torch.float64) for part in parts]
    return total(torch.stack([torch.zeros((), dtype=torch.float64, device=device), *squares]).sum()).sqrt()


def align(module: nn.Module, everything: bool = False) -> None:
    """Broadcast the buffers of rank 0, or parameters and buffers if `everything`. BatchNorm statistics differ until
    then."""
    if dist.is_initialized():
        for tensor in module.state_dict().values() if everything else module.buffers():
            dist.broadcast(tensor, 0, group=group_of(tensor.device))


def gathered(value: T) -> list[T]:
    """Gather the value of each process, by rank."""
    if not dist.is_initialized():
        return [value]
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def own_of(values: list[T]) -> T | None:
    """The value of this process among those of all, by rank; None if they are of another number of processes."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    return values[dist.get_rank() if ranks > 1 else 0] if len(values) == ranks else None


def from_first(value: T) -> T:
    """Broadcast the value of rank 0."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, 0)
    return values[0]


def together(action: Callable[[], T]) -> T:
    """Run an action in every process. If it raises UserError in one process, UserError is raised in all of them."""
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
    """Shares a signal that any process received, so that all processes act on it at the same step: one step later, so
    that no process has to wait."""

    def __init__(self) -> None:
        self._flag = torch.zeros((), dtype=torch.int64)
        self._work: dist.Work | None = None

    def __call__(self, number: int | None) -> int | None:
        """Call in every process after every step. number: the signal received here, if any. Returns the shared
        signal."""
        if not dist.is_initialized():
            return number
        if agreed := self.settle():
            return agreed
        self._flag.fill_(number or 0)
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, async_op=True)
        return None

    def settle(self) -> int | None:
        """Result of the last exchange."""
        if self._work is None:
            return None
        self._work.wait()
        self._work = None
        return int(self._flag) or None
