"""Checkpoints: the state of a run on disk, written atomically, verified by digest, the latest two kept.

A file is one line of JSON (version, step, sha256 of the rest, environment, digest of the line), then the state in the
format of torch.save.
It is read with weights_only=True: a file can hold tensors and plain values, and never runs code.

The checkpoint of a network that is divided among processes is a folder with the same line in a file of its own; see
core/training/pieces.py.
"""

from __future__ import annotations

import hashlib
import io
import queue
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from core.common.errors import Damaged
from core.common.failpoints import failpoint
from core.common.files import make_folder, replacing, sha256_of
from core.common.sealed import sealed, unsealed
from core.training.state import State

VERSION = 1
KEPT = 2
CHECKPOINTS = "checkpoints"  # in the folder of a run
HEAD = "head.json"  # the file of a folder that says which others belong to it, with their digests


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read from disk.

    belongs: the environment that a resume is checked against.  state: as returned by `State.snapshot`; of a folder,
    without the tensors.
    """

    path: Path
    step: int
    belongs: dict[str, Any]
    state: dict[str, Any]


def save(folder: Path, step: int, state: dict[str, Any], belongs: dict[str, Any]) -> Path:
    """Write folder/<step>.checkpoint, then remove all but the latest KEPT checkpoints. Raises OSError."""
    make_folder(folder)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    head = {"version": VERSION, "step": step, "sha256": hashlib.sha256(content).hexdigest(), "belongs": belongs}
    path = folder / f"{step:012d}.checkpoint"
    with replacing(path) as stream:
        stream.write(sealed(head).encode() + b"\n")
        failpoint("checkpoint head written")
        stream.write(content)
        stream.flush()
        failpoint("checkpoint written")
    tidy(folder)
    return path


def tidy(folder: Path) -> None:
    """Remove all but the latest KEPT checkpoints, and what was left of one that was not completed."""
    keep_last(folder, KEPT)
    for left in folder.glob("*.part"):
        remove(left)


def keep_last(folder: Path, count: int = 1) -> None:
    """Remove all but the latest checkpoints."""
    for old in generations(folder)[count:]:
        remove(old)


def remove(path: Path) -> None:
    """Remove a checkpoint, or what was left of one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size_of(folder: Path) -> int:
    """Number of bytes of the latest checkpoint."""
    latest = generations(folder)[:1]
    return sum(path.stat().st_size for each in latest for path in ([each] if each.is_file() else each.iterdir()))


def generations(folder: Path) -> list[Path]:
    """Paths of the complete checkpoints, the latest first."""
    return sorted(folder.glob("*.checkpoint"), reverse=True)


def read(path: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises Damaged."""
    if path.is_dir():
        return _read_folder(path)
    try:
        with path.open("rb") as stream:
            head = unsealed(stream.readline())
            content = stream.read()
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: {error}") from None
    if head.get("version") != VERSION:
        raise Damaged(f"{path}: the checkpoint has version {head.get('version')}; this labbook reads version {VERSION}")
    if hashlib.sha256(content).hexdigest() != head.get("sha256"):
        raise Damaged(f"{path}: its content does not match its digest")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if head.get("step") != state.get("step", head.get("step")) or not isinstance(head.get("belongs"), dict):
        raise Damaged(f"{path}: its first line does not match its content")
    return Checkpoint(path, head["step"], head["belongs"], state)


def _read_folder(path: Path) -> Checkpoint:
    """Verify the files of a checkpoint that several processes wrote; the tensors are read by `load` of pieces.py."""
    try:
        head = unsealed((path / HEAD).read_bytes())
        if head.get("version") != VERSION:
            raise Damaged(
                f"{path}: the checkpoint has version {head.get('version')}; this labbook reads version {VERSION}"
            )
        if {file.name for file in path.iterdir()} != {HEAD, *head["files"]}:
            raise Damaged(f"{path}: it does not have the files that its {HEAD} names")
        for name, digest in head["files"].items():
            if sha256_of(path / name) != digest:
                raise Damaged(f"{path / name}: its content does not match its digest")
    except (OSError, ValueError, KeyError) as error:
        raise Damaged(f"{path}: {error}") from None
    return Checkpoint(path, head["step"], head["belongs"], head["state"])


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Read the latest intact checkpoint. Returns (checkpoint or None, errors of the later ones)."""
    wrong: list[str] = []
    for path in generations(folder):
        try:
            return read(path), wrong
        except Damaged as damage:
            wrong.append(str(damage))
    return None, wrong


def interval(every: str) -> tuple[int | None, int | None]:
    """(steps, seconds) between checkpoints, one of which is None. every: "500", "90s", "5m" or "1h"."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(every[-1])
    return (None, int(every[:-1]) * unit) if unit else (int(every), None)


class NoSaver:
    """In place of a Saver where another process writes the checkpoints."""

    seconds_taken = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def due(self, step: int) -> bool:
        """Never."""
        return False

    def save(self, state: State) -> None:
        """Nothing to do."""

    def wait(self) -> None:
        """Nothing to wait for."""

    def cost(self) -> str:
        """Nothing to tell."""
        return ""


class Saver:
    """Writes checkpoints in a background thread; only the copy of the state is taken in the training thread. At exit,
    the last checkpoint is complete.

    every: a number of steps ("500") or a time ("90s", "5m", "1h") between checkpoints.  seconds_taken: total seconds
    for which training was blocked.
    """

    def __init__(self, folder: Path, every: str, belongs: dict[str, Any]):
        self.folder, self.belongs = folder, belongs
        self.steps, self.seconds = interval(every)
        self._last = time.monotonic()
        self.written, self.seconds_taken = 0, 0.0
        self._jobs: queue.Queue[tuple[int, dict[str, Any]] | None] = queue.Queue()
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        # Once, before there are loader workers: torch raises an error in the training thread when one of them dies, and
        # a thread whose start is interrupted can neither be joined nor be told from one that never ran.
        threading.Thread(target=self._work, name="checkpoint").start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._jobs.put(None)
        self._jobs.join()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` optimizer steps."""
        if self.steps:
            return step % self.steps == 0
        return time.monotonic() - self._last >= (self.seconds or 0)

    def save(self, state: State) -> None:
        """Start writing a checkpoint, after waiting for the previous one to complete. Raises the error of that one."""
        began = time.monotonic()
        self.wait()
        self._jobs.put((state.step, state.snapshot()))
        self.written += 1
        self._last = time.monotonic()
        self.seconds_taken += self._last - began

    def cost(self) -> str:
        """Number, size and cost in time of the checkpoints so far, as a line of text."""
        size = size_of(self.folder) / 1e6
        blocked = f"training was blocked for {self.seconds_taken:.2f} s"
        saved = f"{self.written} checkpoint{'s' * (self.written > 1)} of {size:,.1f} MB saved"
        return f"{saved}; {blocked}"

    def wait(self) -> None:
        """Wait until the checkpoint being written is on disk. Raises OSError if it could not be written."""
        self._jobs.join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    return
                save(self.folder, *job, self.belongs)
            except BaseException as error:  # raised by wait()
                self._error = error
            finally:
                job = None  # of the size of the network
                self._jobs.task_done()
