"""Pretrained weights: of torchvision by name, of a recorded run, or from a file. Files are never unpickled."""

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
from core.models.preset import Preset, of_torchvision

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
NESTS = ("state_dict", "model_state_dict", "model")  # keys of the state dict in checkpoints of other programs
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")  # of an average of the weights
SECONDS = 20.0  # timeout of a download, without receiving data


@dataclass(frozen=True)
class Origin:
    """The source of pretrained weights; the file exists and is complete.

    name: for messages.  sha256: of the file, hexadecimal.  classes: class names in the order of the outputs, if known.
    preset: how the images were prepared, if known.
    """

    name: str
    path: Path
    sha256: str
    classes: tuple[str, ...] | None = None
    preset: Preset | None = None

    def record(self) -> dict[str, str]:
        """The entry for a run's record."""
        return {"name": self.name, "file": self.path.name, "sha256": self.sha256}


def find(wanted: str, published: str | None) -> Origin:
    """Resolve `model.weights`.  published: name of the network in torchvision, if torchvision has weights for it.

    An existing file comes first, then the names of torchvision, then runs. A torchvision file is looked up in the data
    store and in the folder of torch.hub, and downloaded to the store otherwise. Raises UserError in one line.
    """
    path = Path(wanted).expanduser()
    if path.is_file():
        return Origin(wanted, path, digest(path))
    if path.suffix in SUFFIXES:
        raise refused(f"the file {wanted} does not exist")
    known = _published(published) if published else {}
    if wanted in known:
        return _of_torchvision(f"{wanted} of {published}", known[wanted])
    if re.fullmatch(r"[A-Z0-9_]+", wanted):
        available = f"{published} has {', '.join(known)}" if known else "torchvision has no weights for this network"
        raise refused(f"the weights {wanted} do not exist{did_you_mean(wanted, known)}; {available}")
    return _of_run(wanted, known)


def read(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Returns the state dict in a safetensors file, or in a torch.save file of tensors and plain values, and a note for
    the user about what was chosen where the file has several, or an empty text.

    Raises UserError, in one line, if the file is damaged, contains no state dict, or could execute code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), ""
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols; files are rejected below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # malformed files can raise nearly any exception
        # a file that is cut off is read as a pickle of an old version, whose operations are unknown
        unsafe = "weights_only" in str(error) and "Unsupported operand" not in str(error)
        reason = (
            "it contains pickled objects other than tensors, which could execute code"
            if unsafe
            else "it is damaged or has an unsupported format"
        )
        advice = "save only the state_dict() of the network, preferably as safetensors"
        raise refused(f"cannot load {path}: {reason}; {advice}") from None
    found, note = _nested(found)
    tensors = {n: t for n, t in found.items() if isinstance(t, torch.Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise refused(f"{path} contains no state dict; save the state_dict() of the network to it")
    return tensors, note


def _nested(found: Any) -> tuple[Any, str]:
    """(The state dict in a checkpoint of another program, a note). The weights come before an average of them."""
    average = next((n for n in AVERAGES if isinstance(found, Mapping) and isinstance(found.get(n), Mapping)), None)
    inner = found
    for nest in NESTS:
        if isinstance(inner, Mapping) and isinstance(inner.get(nest), Mapping):
            inner = inner[nest]
    if average is None:
        return inner, ""
    if inner is found:
        return found[average], f"the average {average} of the file was loaded; it has no other weights"
    return inner, f"the average {average}, which the file has too, was not loaded; to load it, save it alone"


def digest(path: Path) -> str:
    """The sha256 of a file, hexadecimal; cached until the file changes."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_of(path)


def _published(name: str) -> dict[str, Any]:
    """Name of weights (including DEFAULT) -> the entry of torchvision's weights enum."""
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
        raise refused(
            f"{path} is damaged: its sha256 starts with {found[:8]}, not {expected}; delete it to download it again"
        )
    categories = entry.meta.get("categories")
    return Origin(name, path, found, tuple(categories) if categories else None, of_torchvision(entry))


def _hub() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _fetched(url: str, target: Path, expected: str) -> Path:
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")), _socket_timeout():
            if not target.exists():
                torch.hub.download_url_to_file(url, str(target), expected or None, progress=False)
    except (OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = f"put the file at {target}, or use --model.weights none"
        raise refused(f"downloading {url} failed ({reason}); {advice}") from None
    return target


def refused(message: str) -> UserError:
    """The error of a user about model.weights."""
    return UserError([f"model.weights: {message}"])


@contextmanager
def _socket_timeout() -> Iterator[None]:
    """Context manager with a timeout, which torch.hub does not set."""
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
        others = f"; torchvision has {', '.join(known)}" if known else ""
        raise refused(f"{mistakes}; {wanted} is not a file either{others}") from None
    path = run.folder / "artifacts" / WEIGHTS
    if run.status != "FINISHED":
        raise refused(f"run {run.id} is {run.status}; name a finished run")
    if not path.exists():
        raise refused(f"run {run.id} has no saved weights ({WEIGHTS})")
    return Origin(run.id, run.artifact(WEIGHTS), digest(path), classes)
