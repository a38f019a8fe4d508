"""Read TensorBoard event files with the package tensorboard: scalars, and hyperparameters of the HParams plugin."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.importing.log import Log, Point, placed, settings

KIND = "TensorBoard"
FILES = "*tfevents*"
_FRAME = 16  # bytes around each event: its length and two checksums
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
    epochs = {point.step: int(point.value) for point in points if point.name == _EPOCH and 0 <= point.value < math.inf}
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
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    params: dict[str, str] = {}
    points: list[Point | _Restart] = []
    plugins: dict[str, str] = {}  # tag -> plugin, which only the first event of a tag has to name
    whole = 0
    try:
        for raw in RawEventFileLoader(str(file)).Load():
            event = data_compat.migrate_event(Event.FromString(raw))
            whole += _FRAME + len(raw)
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                points.append(_Restart(event.step))
            for value in event.summary.value:
                name = plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
                if name == "scalars":
                    points += _scalar(event, value)
                elif name == "hparams":
                    params |= dict(_hparams(value.metadata.plugin_data.content))
    except (OSError, DecodeError) as error:
        raise UserError([f"{file}: is not an event file: {error}"]) from None
    left = file.stat().st_size - whole
    notes = [f"{file.name}: skipped the last {left} bytes, which are incomplete or damaged"] if left > 0 else []
    return params, points, notes


def _scalar(event: Any, value: Any) -> Iterator[Point]:
    from tensorboard.util import tensor_util

    array = tensor_util.make_ndarray(value.tensor)
    if array.size == 1:
        yield Point(value.tag, event.step, float(array.item()), None, int(event.wall_time * 1000))


def _hparams(content: bytes) -> Iterator[tuple[str, str]]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items():
        plain = getattr(value, value.WhichOneof("kind") or "string_value")
        whole = isinstance(plain, float) and plain.is_integer()  # the format has no integers
        yield name, str(int(plain) if whole else plain)
