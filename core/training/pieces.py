"""Checkpoints of a network that is divided among processes, through torch.distributed.checkpoint.

A checkpoint is a folder, <step>-<epochs>.checkpoint, on a disk that all processes share. Each process writes what it
has to a safetensors file of its own; rank 0 then writes HEAD, with the digests of all files, and renames the folder to
its final name. Until then the former checkpoints are left as they are. Reading fits the pieces together for any number
of processes, and unpickles nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import (  # type: ignore[attr-defined]  # it names none of them for export
    CheckpointException,
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint import load as read_tensors  # type: ignore[attr-defined]
from torch.distributed.checkpoint import save as write_tensors  # type: ignore[attr-defined]
from torch.distributed.tensor import DTensor

from core.common.errors import Damaged
from core.common.failpoints import failpoint
from core.common.files import make_folder, place, replacing, sha256_of
from core.common.sealed import sealed
from core.training import distributed
from core.training.checkpoint import HEAD, VERSION, Checkpoint, interval, read, remove, size_of, tidy
from core.training.state import State

Own = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""Name of a parameter in `trained` -> (the parameter, what the optimizer updates of it in this process)."""


def tensors_of(state: State, own: Own) -> dict[str, torch.Tensor]:
    """All tensors of this process that training changes, by name; they share memory with the state."""
    parts = {"trained": state.trained, "ema": state.ema, "swa": state.swa}
    found = {f"{part}.{n}": t for part, module in parts.items() if module for n, t in module.state_dict().items()}
    for name, (parameter, updated) in own.items():
        for key, value in state.optimizer.state.get(updated, {}).items():
            found[f"optimizer.{name}.{key}"] = _placed(value, parameter) if value.ndim else value
    return found


def _placed(local: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The whole tensor of which this is the shard, if the parameter is divided into shards."""
    if not isinstance(like, DTensor):
        return local
    mesh, placements = like.device_mesh, like.placements
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())


def values_of(state: State, own: Own) -> dict[str, Any]:
    """The rest of the state, the same in every process: plain values. optimizer: {parameter: {name of a tensor: whether
    it has the shape of the parameter}}."""
    kept = {name: state.optimizer.state.get(updated, {}) for name, (_, updated) in own.items()}
    return {
        "history": state.history,
        "step": state.step,
        "seen": state.seen,
        "sums": state.sums.tolist(),
        "split": state.split,
        "seconds": state.stopwatch.state_dict() if state.stopwatch else None,
        "optimizer": {name: {key: value.ndim > 0 for key, value in values.items()} for name, values in kept.items()},
    }


def save(folder: Path, step: int, tensors: dict[str, torch.Tensor], values: dict[str, Any], belongs: Any) -> None:
    """Write folder/<step>-<epochs>.checkpoint, then remove all but the latest ones. Raises OSError in all processes.

    A folder cannot replace another at once, so one of this name, of the same state, is left if it is intact.
    """
    path, rank = folder / f"{step:012d}-{len(values['history']):06d}.checkpoint", dist.get_rank()
    part = path.with_name(f"{path.name}.part")
    if distributed.from_first(not rank and _is_intact(path)):
        return
    if not rank:
        remove(path)
        remove(part)
        make_folder(part)
    dist.barrier()
    packed = {name: tensor if isinstance(tensor, DTensor) else tensor.contiguous() for name, tensor in tensors.items()}
    try:
        write_tensors(packed, storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True))
    except CheckpointException as error:  # a BaseException
        reason = next(iter(error.failures.values()))[0]
        raise (reason if isinstance(reason, OSError) else RuntimeError(str(reason))) from error
    failpoint("shards written")
    digests = {file.name: sha256_of(file) for file in part.glob(f"shard-{rank + 1:05d}-*")}
    head = {"version": VERSION, "step": step, "belongs": belongs, "state": _merged(distributed.gathered(values))}
    files = {name: digest for each in distributed.gathered(digests) for name, digest in each.items()}
    if not rank:
        with replacing(part / HEAD) as stream:
            stream.write(sealed(head | {"files": files}).encode())
        failpoint("shards sealed")
        place(part, path)
        tidy(folder)
    dist.barrier()  # when `save` returns, the checkpoint is complete


def _is_intact(path: Path) -> bool:
    try:
        return path.exists() and bool(read(path))
    except Damaged:
        return False


def _merged(each: list[dict[str, Any]]) -> dict[str, Any]:
    """The values of all processes, which differ in the parameters that they have."""
    return each[0] | {"optimizer": {name: keys for own in each for name, keys in own["optimizer"].items()}}


def load(state: State, found: Checkpoint, own: Own) -> None:
    """Load a checkpoint, whatever the number of processes that wrote it."""
    values = found.state
    for name, (_, updated) in own.items():
        state.optimizer.state[updated] = {
            key: torch.zeros_like(updated) if shaped else torch.zeros((), device=updated.device)
            for key, shaped in values["optimizer"].get(name, {}).items()
        }
    read_tensors(tensors_of(state, own), storage_reader=HuggingFaceStorageReader(str(found.path)))
    state.history, state.step, state.seen = values["history"], values["step"], values["seen"]
    state.split = values["split"]
    state.sums.copy_(torch.tensor(values["sums"], dtype=state.sums.dtype))
    if state.stopwatch and values["seconds"]:
        state.stopwatch.load_state_dict(values["seconds"])


class ShardSaver:
    """Writes checkpoints in the training thread of every process: their collective operations would be mixed with those
    of the training. See `Saver`."""

    def __init__(self, folder: Path, every: str, belongs: dict[str, Any], own: Own):
        self.folder, self.belongs, self.own = folder, belongs, own
        self.steps, self.seconds = interval(every)
        self._last, self._agreed = time.monotonic(), distributed.Agreement()
        self.written, self.seconds_taken = 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        if kind is None:
            self._agreed.settle()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` optimizer steps, by the clock of rank 0."""
        if self.steps:
            return step % self.steps == 0
        passed = not dist.get_rank() and time.monotonic() - self._last >= (self.seconds or 0)
        return bool(self._agreed(int(passed) or None))

    def save(self, state: State) -> None:
        """Write a checkpoint. Raises OSError."""
        began = time.monotonic()
        for module in (state.trained, state.ema, state.swa):
            if module is not None:
                state.parallel.align(module)  # running statistics differ among processes until then
        save(self.folder, state.step, tensors_of(state, self.own), values_of(state, self.own), self.belongs)
        self.written += 1
        self._last = time.monotonic()
        self.seconds_taken += self._last - began

    def wait(self) -> None:
        """A checkpoint is complete when `save` returns."""

    def cost(self) -> str:
        """Number, size and cost in time of the checkpoints so far, as a line of text."""
        saved = f"{self.written} checkpoint{'s' * (self.written > 1)} of {size_of(self.folder) / 1e6:,.1f} MB saved"
        return f"{saved} by {dist.get_world_size()} processes; training was blocked for {self.seconds_taken:.2f} s"
