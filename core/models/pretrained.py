"""First weights from elsewhere: torchvision's by name, a run on record, a file. Nothing is ever unpickled."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.common import paths
from core.common.errors import UserError
from core.common.files import sha256_of
from core.common.text import did_you_mean

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
NESTS = ("state_dict", "model_state_dict", "model")  # where the checkpoints of other programs keep the network
SECONDS = 20.0  # without a byte, after which a download has failed


@dataclass(frozen=True)
class Origin:
    """Where a network's first weights are from, the file there and whole.

    name: for people.  sha256: hex, of the file.  classes: what the outputs mean, where that is known.
    """

    name: str
    path: Path
    sha256: str
    classes: tuple[str, ...] | None = None

    def record(self) -> dict[str, str]:
        """What a run's record notes."""
        return {"name": self.name, "file": self.path.name, "sha256": self.sha256}


def find(wanted: str, published: str | None) -> Origin:
    """What `model.weights` names. published: the network's name among torchvision's, if it has one.

    A file that is there comes first, then torchvision's names, then runs. Torchvision's file is looked for in the store
    and in torch.hub's folder, and fetched into the store where it is in neither. Raises UserError in one line.
    """
    path = Path(wanted).expanduser()
    if path.is_file():
        return Origin(wanted, path, digest(path))
    if path.suffix in SUFFIXES:
        raise _wrong(f"there is no file {wanted}")
    known = _published(published) if published else {}
    if wanted in known:
        return _of_torchvision(f"{wanted} of {published}", known[wanted])
    if re.fullmatch(r"[A-Z0-9_]+", wanted):
        there = f"{published} has {', '.join(known)}" if known else "torchvision has none for this network"
        raise _wrong(f"there are no weights {wanted}{did_you_mean(wanted, known)}; {there}")
    return _of_run(wanted, known)


def read(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file: safetensors, or what torch.save wrote of tensors and plain values.

    Raises UserError, in one line, for one that is damaged, holds none, or would run code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # of pickle protocols: what is refused is told below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # hostile bytes raise nearly anything
        unsafe = "weights_only" in str(error) or "Unsupported" in str(error)
        reason = "it holds more than tensors, which may run code" if unsafe else "it is damaged or of another format"
        advice = "save the network's state_dict() alone, best as safetensors"
        raise _wrong(f"{path} is refused: {reason}; {advice}") from None
    for nest in NESTS:
        if isinstance(found, Mapping) and isinstance(found.get(nest), Mapping):
            found = found[nest]
    tensors = {n: t for n, t in found.items() if isinstance(t, torch.Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise _wrong(f"{path} holds no state dict; save the network's state_dict() there")
    return tensors


def digest(path: Path) -> str:
    """sha256 of a file, hex; read again only when the file has changed."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_of(path)


def _published(name: str) -> dict[str, Any]:
    """Name of weights -> torchvision's entry, DEFAULT among them."""
    import torchvision.models

    return dict(torchvision.models.get_model_weights(name).__members__.items())


def _of_torchvision(name: str, entry: Any) -> Origin:
    file = entry.url.rsplit("/", 1)[-1]
    hashed = re.search(r"-([0-9a-f]{8,})\.", file)
    expected = hashed[1] if hashed else ""
    path = next((folder / file for folder in (paths.store(), _hub()) if (folder / file).is_file()), None)
    path = path or _fetched(entry.url, paths.store() / file, expected)
    found = digest(path)
    if not found.startswith(expected):
        raise _wrong(f"{path} is damaged: sha256 begins with {found[:8]}, not {expected}; delete it")
    categories = entry.meta.get("categories")
    return Origin(name, path, found, tuple(categories) if categories else None)


def _hub() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _fetched(url: str, target: Path, expected: str) -> Path:
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")), _impatient():
            if not target.exists():
                torch.hub.download_url_to_file(url, str(target), expected or None, progress=False)
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = f"put the file at {target}, or use --model.weights none"
        told = f"{target.name} is not there, and fetching {url} failed ({reason})"
        raise _wrong(f"{told}: {advice}") from None
    return target


def _wrong(what: str) -> UserError:
    return UserError([f"model.weights: {what}"])


@contextmanager
def _impatient() -> Iterator[None]:
    """torch.hub sets no time limit of its own."""
    import socket

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _of_run(wanted: str, known: Mapping[str, Any]) -> Origin:
    from core.record.run import WEIGHTS, RecordedRun

    try:
        run = RecordedRun.load(wanted)
        classes = tuple(run.record["data"]["classes"]) if "data" in run.record else ()
    except UserError as mistakes:
        others = f", and torchvision has {', '.join(known)}" if known else ""
        raise _wrong(f"{mistakes}; {wanted} is no file either{others}") from None
    path = run.folder / "artifacts" / WEIGHTS
    if run.status != "FINISHED":
        raise _wrong(f"{run.id} is {run.status}; only a finished run's weights stay as they are")
    if not path.exists():
        raise _wrong(f"{run.id} has kept no weights")
    return Origin(run.id, path, digest(path), classes)
