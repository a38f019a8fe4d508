"""TensorBoard as a tracker of journals: one file of events for each run, in the folder tensorboard/ of the home.

A mirror that was killed may have written more than it noted. The file is cut to what was noted before it is continued,
so that nothing is there twice.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from core.common.files import make_folder
from core.record import journal
from core.record.run import GRAPH
from core.tracking.cursor import Record
from core.tracking.destinations import TENSORBOARD
from core.tracking.tracker import Missing, Point

_FIRST = "brain.Event:2"  # the version of files of events
_IMAGES = {".png", ".jpg", ".jpeg"}


def tracker() -> EventFiles:
    """Returns the tracker that writes to the folder of the home."""
    return EventFiles(Path(TENSORBOARD.place()))


def is_hopeless(error: Exception) -> bool:
    """Whether waiting does not help."""
    return isinstance(error, PermissionError)


class EventFiles:
    """Files of events. The id of a run is the path of its file below `root`."""

    def __init__(self, root: Path):
        self.root = root
        self._files: dict[str, BinaryIO] = {}
        self._times: dict[str, float] = {}  # s since 1970: that of the run's first event

    def open(self, folder: Path, event: Mapping[str, Any], record: Record, seek: bool) -> Record:
        if record.run_id:
            path = self.root / record.run_id
            if not path.is_file() or path.stat().st_size < record.position:
                raise Missing
        else:
            where = Path(event["experiment"]) / event["id"]
            for old in (self.root / where).glob("events.out.tfevents.*"):
                old.unlink()
            record = replace(record, run_id=str(where / f"events.out.tfevents.{event['time'] // 1000}.labbook"))
        self._close(record.run_id)
        self._times[record.run_id] = event["time"] / 1000
        return record

    def params(self, record: Record, values: Mapping[str, str]) -> list[str]:
        self._text(record, "params", _table(values))
        run = Path(record.run_id).parent.name
        begun = SessionStartInfo(group_name=run, start_time_secs=self._times[record.run_id])
        for name, text in values.items():
            _set(begun.hparams[name], text)
        self._session(record, hparams.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=begun))
        return []

    def tags(self, record: Record, values: Mapping[str, str]) -> list[str]:
        self._text(record, "tags", _table(values))
        return []

    def metrics(self, record: Record, points: Sequence[Point]) -> list[str]:
        for point in points:
            value = Summary.Value(tag=point.name, simple_value=point.value)
            self._write(record, time=point.time / 1000, step=point.step, summary=Summary(value=[value]))
        return []

    def dataset(self, record: Record, event: Mapping[str, Any]) -> list[str]:
        facts = {name: str(event[name]) for name in ("name", "digest", "source", "context", "profile") if name in event}
        self._text(record, f"data/{event['name']}", _table(facts))
        return []

    def artifact(self, record: Record, path: Path, name: str) -> list[str]:
        if name == GRAPH and path.is_file():
            self._write(record, graph_def=path.read_bytes())
            return []
        if path.suffix.lower() not in _IMAGES:
            return []  # TensorBoard has no place for files
        try:
            with Image.open(path) as image:
                width, height = image.size
            picture = Summary.Image(width=width, height=height, encoded_image_string=path.read_bytes())
        except OSError as error:
            return [f"artifact {name}: {error}"]
        self._write(record, summary=Summary(value=[Summary.Value(tag=name, image=picture)]))
        return []

    def status(self, record: Record, status: str, time: int) -> None:
        if status in journal.ENDED:
            state = Status.STATUS_SUCCESS if status == "FINISHED" else Status.STATUS_FAILURE
            ended = HParamsPluginData(session_end_info=SessionEndInfo(status=state, end_time_secs=time / 1000))
            self._session(record, hparams.SESSION_END_INFO_TAG, ended)

    def kept(self, record: Record) -> Record:
        if record.run_id not in self._files:  # nothing was written
            return record
        file = self._files[record.run_id]
        with self._cut_if_it_fails(record.run_id):
            file.flush()
            os.fsync(file.fileno())
        return replace(record, position=file.tell())

    def let_go(self, record: Record) -> Record:
        self._close(record.run_id)
        return record

    def check(self, record: Record) -> None:
        pass

    def is_permanent(self, error: Exception) -> bool:
        return False

    def close(self) -> None:
        for run in list(self._files):
            self._close(run)

    def _close(self, run: str) -> None:
        if run in self._files:
            with contextlib.suppress(OSError):
                self._files.pop(run).close()

    @contextlib.contextmanager
    def _cut_if_it_fails(self, run: str) -> Iterator[None]:
        """Close the file after an error: whoever opens it again cuts off what was written of the batch."""
        try:
            yield
        except OSError:
            self._close(run)
            raise

    def _session(self, record: Record, tag: str, data: HParamsPluginData) -> None:
        metadata = hparams.create_summary_metadata(data)
        self._write(
            record, summary=Summary(value=[Summary.Value(tag=tag, tensor=hparams.NULL_TENSOR, metadata=metadata)])
        )

    def _text(self, record: Record, tag: str, text: str) -> None:
        tensor = make_tensor_proto([text.encode()])
        metadata = create_summary_metadata(display_name=tag, description="")
        self._write(record, summary=Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)]))

    def _write(self, record: Record, time: float | None = None, step: int = 0, **what: Any) -> None:
        when = self._times[record.run_id] if time is None else time
        with self._cut_if_it_fails(record.run_id):
            _append(self._file(record), Event(wall_time=when, step=step, **what))

    def _file(self, record: Record) -> BinaryIO:
        if record.run_id not in self._files:
            path = self.root / record.run_id
            make_folder(path.parent)
            file = path.open("r+b" if path.exists() else "w+b")
            file.truncate(record.position)
            file.seek(record.position)
            if not record.position:
                _append(file, Event(wall_time=self._times[record.run_id], file_version=_FIRST))
            self._files[record.run_id] = file
        return self._files[record.run_id]


def _append(file: BinaryIO, event: Event) -> None:
    RecordWriter(file).write(event.SerializeToString())


def _table(values: Mapping[str, str]) -> str:
    """A table in Markdown."""
    rows = "".join(f"| {name} | {_cell(text)} |\n" for name, text in values.items())
    return f"| name | value |\n| --- | --- |\n{rows}"


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _set(field: Any, text: str) -> None:
    """Set a protobuf value to a param: as a truth value or a number if it is one, else as text."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, int | float):
        field.number_value = value
    else:
        field.string_value = text
