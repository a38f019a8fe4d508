"""TensorBoard's event files, read by tensorboard itself: scalars, and the parameters of its plugin HParams."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.importing.log import Log, Point, placed, settings

KIND = "TensorBoard"
FILES = "*tfevents*"
_FRAME = 16  # bytes around each event: its length and two checksums
_EPOCH = "epoch"  # Lightning logs it beside every metric


def available() -> None:
    """Raises UserError where the package tensorboard is missing."""
    try:
        importlib.import_module("tensorboard.backend.event_processing.event_file_loader")
    except ImportError:
        raise UserError(['TensorBoard\'s events need its package: pip install -e ".[import]"']) from None


def beside(path: Path) -> Path:
    """The settings of a run, where Lightning would leave them."""
    return (path if path.is_dir() else path.parent) / "hparams.yaml"


def files(folder: Path) -> list[Path]:
    """The event files in a folder itself, in the order in which they were begun."""
    return sorted(path for path in folder.glob(FILES) if path.is_file())


def read(path: Path, parts: Sequence[tuple[str, Path]]) -> Log:
    """parts: (what its metrics' names begin with, an event file). Raises UserError where there is no scalar."""
    params: dict[str, str] = {}
    points: list[Point] = []
    notes: list[str] = []
    for prefix, file in parts:
        own, scalars, note = _read(file)
        params |= own
        points += [Point(prefix + point.name, point.step, point.value, None, point.time) for point in scalars]
        notes += note
    if not points:
        raise UserError([f"{path}: no scalar in its event files", *notes])
    epochs = {point.step: int(point.value) for point in points if point.name == _EPOCH and 0 <= point.value < math.inf}
    others = [point for point in points if point.name != _EPOCH] or points
    found, more = placed(Point(p.name, p.step, p.value, epochs.get(p.step), p.time) for p in others)
    return Log(KIND, settings(beside(path)) | params, tuple(found), (*notes, *more))


def tags(file: Path) -> set[str]:
    """The names of the scalars of one event file."""
    return {point.name for point in _read(file)[1]}


def _read(file: Path) -> tuple[dict[str, str], list[Point], list[str]]:
    """(hyperparameters, scalars, notes) of one event file. Raises UserError where it cannot be read at all."""
    from google.protobuf.message import DecodeError
    from tensorboard import data_compat
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    params: dict[str, str] = {}
    points: list[Point] = []
    plugins: dict[str, str] = {}  # of a tag: only its first event need say it
    whole = 0
    try:
        for raw in RawEventFileLoader(str(file)).Load():
            event = data_compat.migrate_event(Event.FromString(raw))
            whole += _FRAME + len(raw)
            for value in event.summary.value:
                name = plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
                if name == "scalars":
                    points += _scalar(event, value)
                elif name == "hparams":
                    params |= dict(_hparams(value.metadata.plugin_data.content))
    except (OSError, DecodeError) as error:
        raise UserError([f"{file}: not an event file: {error}"]) from None
    left = file.stat().st_size - whole
    return params, points, [f"{file.name}: its last {left} bytes are torn or damaged, left out"] if left > 0 else []


def _scalar(event: Any, value: Any) -> Iterator[Point]:
    from tensorboard.util import tensor_util

    array = tensor_util.make_ndarray(value.tensor)
    if array.size == 1:
        yield Point(value.tag, event.step, float(array.item()), None, int(event.wall_time * 1000))


def _hparams(content: bytes) -> Iterator[tuple[str, str]]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items():
        plain = getattr(value, value.WhichOneof("kind") or "string_value")
        whole = isinstance(plain, float) and plain.is_integer()  # the format knows no whole numbers
        yield name, str(int(plain) if whole else plain)
