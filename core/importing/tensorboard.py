"""Read TensorBoard event files with the package tensorboard: scalars, and hyperparameters of the HParams plugin."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.importing.log import Log, Point, placed, settings

KIND = "TensorBoard"
FILES = "*tfevents*"
_FRAME = 16  # bytes around each event: its length and two checksums
MALFORMED = (ValueError, TypeError, LookupError, OverflowError)  # what odd tensors and histograms raise
_LATEST = 1e11  # s since 1970
_EPOCH = "epoch"  # a scalar that Lightning logs with every metric


def available() -> None:
    """Raises UserError if the package tensorboard is not installed."""
    try:
        importlib.import_module("tensorboard.backend.event_processing.event_file_loader")
    except ImportError:
        raise UserError(['tensorboard is not installed; it reads event files: pip install -e ".[import]"']) from None


def beside(path: Path) -> Path:
    """Returns the path at which Lightning writes the settings of a run."""
    return (path if path.is_dir() else path.parent) / "hparams.yaml"


def files(folder: Path) -> list[Path]:
    """Returns the event files in a folder, without subfolders, in the order in which they were created."""
    return sorted(path for path in folder.glob(FILES) if path.is_file())


def read(path: Path, parts: Sequence[tuple[str, Path]]) -> Log:
    """Read the log of a run. parts: (prefix of the metric names, event file). Raises UserError without any scalar."""
    params: dict[str, str] = {}
    written: dict[str, list[Point]] = {}  # prefix -> points
    notes: list[str] = []
    for prefix, file in parts:
        own, scalars, note = _read(file)
        params |= own
        notes += note
        kept = written.setdefault(prefix, [])
        for point in scalars:
            if isinstance(point, _Restart):
                before = len(kept)
                kept[:] = [one for one in kept if one.step < point.step]
                notes += (
                    [f"skipped {lost} values that a restart at step {point.step} took back"]
                    if (lost := before - len(kept))
                    else []
                )
            else:
                kept.append(replace(point, name=prefix + point.name))
    points = [point for kept in written.values() for point in kept]
    if not points:
        raise UserError([f"{path}: its event files contain no scalars", *notes])
    epochs = {point.step: int(point.value) for point in points if point.name == _EPOCH and 0 <= point.value < 2**53}
    others = [point for point in points if point.name != _EPOCH] or points
    found, more = placed(Point(p.name, p.step, p.value, epochs.get(p.step), p.time) for p in others)
    return Log(KIND, settings(beside(path)) | params, tuple(found), (*notes, *more))


def tags(file: Path) -> set[str]:
    """Returns the names of the scalars in an event file."""
    return {point.name for point in _read(file)[1] if isinstance(point, Point)}


@dataclass(frozen=True)
class _Restart:
    """A writer was opened with purge_step: what was logged before at this step or later does not count."""

    step: int


def _read(file: Path) -> tuple[dict[str, str], list[Point | _Restart], list[str]]:
    """(hyperparameters, scalars and restarts in their order, notes) of an event file.

    Raises UserError if it is not an event file.
    """
    from google.protobuf.message import DecodeError
    from tensorboard import data_compat
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    params: dict[str, str] = {}
    points: list[Point | _Restart] = []
    plugins: dict[str, str] = {}  # tag -> plugin, which only the first event of a tag has to name
    whole = malformed = 0
    try:
        for raw in RawEventFileLoader(str(file)).Load():
            whole += _FRAME + len(raw)
            try:
                event = data_compat.migrate_event(Event.FromString(raw))
            except MALFORMED:
                malformed += 1
                continue
            if event.HasField("session_log") and event.session_log.status == event.session_log.START:
                points.append(_Restart(event.step))
            for value in event.summary.value:
                name = plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
                if name == "scalars":
                    try:
                        points += [point] if (point := _scalar(event, value)) else []
                    except MALFORMED:
                        malformed += 1
                elif name == "hparams":
                    params |= dict(_hparams(value.metadata.plugin_data.content))
    except (OSError, DecodeError, MemoryError, OverflowError) as error:  # the length of an event may be any number
        raise UserError([f"{file}: is not an event file: {error}"]) from None
    left = file.stat().st_size - whole
    notes = [f"{file.name}: skipped the last {left} bytes, which are incomplete or damaged"] if left > 0 else []
    notes += [f"{file.name}: skipped {malformed} malformed values"] if malformed else []
    return params, points, notes


def _scalar(event: Any, value: Any) -> Point | None:
    """The point of a value; None if its tensor has several elements. Raises any of MALFORMED."""
    from tensorboard.util import tensor_util

    shape = value.tensor.tensor_shape
    if shape.unknown_rank or any(dim.size != 1 for dim in shape.dim):  # before memory is allocated for them
        return None
    number = float(tensor_util.make_ndarray(value.tensor).item())
    time = event.wall_time
    return Point(value.tag, event.step, number, None, int(time * 1000) if 0 < time < _LATEST else None)


def _hparams(content: bytes) -> Iterator[tuple[str, str]]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items():
        plain = getattr(value, value.WhichOneof("kind") or "string_value")
        whole = isinstance(plain, float) and plain.is_integer()  # the format has no integers
        yield name, str(int(plain) if whole else plain)
