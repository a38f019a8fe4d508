"""MLflow as a tracker of journals."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from core.common.text import public
from core.record import journal
from core.tracking import client as store
from core.tracking import cursor
from core.tracking.address import tracking_uri
from core.tracking.cursor import Record
from core.tracking.tracker import Point, Waits

_MOST_METRICS, _MOST_TEXTS = 1000, 100  # in one call; MLflow's limits, as are the lengths
_MOST_BYTES = 900_000
_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000
_DIGEST_LENGTH = 8  # same as MLflow's own digests, which fit its table of runs; the record has the full digest
_CUT = " ... (cut; whole in journal.jsonl)"


def tracker() -> MLflow:
    """Returns a tracker whose store responds. Raises what MLflow raises if it does not."""
    return MLflow(store.connect(tracking_uri()))


def is_hopeless(error: Exception) -> bool:
    """Whether waiting does not help: the address, the login or the installation has to be changed."""
    return store.hopeless(error)


class MLflow:
    """Runs in a store of MLflow. Sending an entry twice does no harm."""

    def __init__(self, client: MlflowClient):
        self.client = client

    def open(self, folder: Path, event: Mapping[str, Any], record: Record, seek: bool) -> Record:
        if record.run_id:
            store.check_run(self.client, record.run_id)
            return record
        parent, refused = _parent(folder, event, record.tracking_uri)
        experiment = store.experiment(self.client, event["experiment"], event.get("description") or "")
        found = store.find_run(self.client, experiment, event["id"]) if seek else None
        run = found or store.create_run(self.client, experiment, event, parent)
        notes = record.with_refused(refused)
        return replace(record, experiment_id=experiment, run_id=run, view=store.VIEW, refused=notes)

    def params(self, record: Record, values: Mapping[str, str]) -> list[str]:
        params = [Param(name, _cut(text, _PARAM_LENGTH)) for name, text in values.items()]
        return _send_all(lambda chunk: self.client.log_batch(record.run_id, params=chunk), params, _MOST_TEXTS)

    def tags(self, record: Record, values: Mapping[str, str]) -> list[str]:
        tags = [RunTag(name, _cut(text, _TAG_LENGTH)) for name, text in values.items()]
        return _send_all(lambda chunk: self.client.log_batch(record.run_id, tags=chunk), tags, _MOST_TEXTS)

    def metrics(self, record: Record, points: Sequence[Point]) -> list[str]:
        metrics = [Metric(point.name, point.value, point.time, point.step) for point in points]
        return _send_all(lambda chunk: self.client.log_batch(record.run_id, metrics=chunk), metrics, _MOST_METRICS)

    def dataset(self, record: Record, event: Mapping[str, Any]) -> list[str]:
        refusal = _refusal(lambda: self.client.log_inputs(record.run_id, [_dataset(event)]))
        return [f"dataset {event['name']}: {refusal}"] if refusal else []

    def artifact(self, record: Record, path: Path, name: str) -> list[str]:
        above = PurePosixPath(name).parent
        into = None if above == PurePosixPath() else above.as_posix()
        refusal = _refusal(lambda: self.client.log_artifact(record.run_id, str(path), into))
        return [f"artifact {name}: {refusal}"] if refusal else []

    def status(self, record: Record, status: str, time: int) -> None:
        if status in journal.ENDED:
            self.client.set_terminated(record.run_id, status, time)
        else:
            self.client.update_run(record.run_id, status=status)

    def kept(self, record: Record) -> Record:
        return record

    def let_go(self, record: Record) -> Record:
        return record

    def check(self, record: Record) -> None:
        store.check_run(self.client, record.run_id)

    def is_permanent(self, error: Exception) -> bool:
        return store.permanent(error)

    def close(self) -> None:
        pass


def _parent(folder: Path, event: Mapping[str, Any], place: str) -> tuple[str | None, list[str]]:
    """(MLflow's id of the parent or None, notes). Raises Waits if the parent is not in MLflow yet."""
    parent = event.get("parent")
    if not parent:
        return None, []
    if not (folder.parent / parent).is_dir():
        return None, [f"parent {parent}: unknown run"]
    above = cursor.load(folder.parent / parent)
    if above is None or above.tracking_uri != place or not above.run_id:
        raise Waits(f"waiting for its parent {parent}")
    return above.run_id, []


def _send_all(call: Callable[[Sequence[Any]], Any], items: Sequence[Any], most: int) -> list[str]:
    """Send items in chunks. If MLflow rejects a chunk, its names are sent separately, so that only bad ones fail."""
    return [note for chunk in _chunks(items, most) for note in _send_chunk(call, chunk)]


def _send_chunk(call: Callable[[Sequence[Any]], Any], items: Sequence[Any]) -> list[str]:
    refusal = _refusal(lambda: call(items))
    if refusal is None:
        return []
    by_name: dict[str, list[Any]] = {}
    for item in items:
        by_name.setdefault(item.key, []).append(item)
    if len(by_name) == 1:
        return [f"{type(items[0]).__name__.lower()} {items[0].key}: {refusal}"]
    return [note for chunk in by_name.values() for note in _send_chunk(call, chunk)]


def _refusal(call: Callable[[], Any]) -> str | None:
    """Make a call. Returns the reason if MLflow rejects it permanently, otherwise None. Raises temporary errors."""
    try:
        try:
            call()
        except MlflowException as error:
            # if two processes insert the same data set at the same time, one fails and has to try again
            if error.error_code != "BAD_REQUEST":
                raise
            call()
    except Exception as error:
        if not store.permanent(error):
            raise
        return public(str(error)).partition("\n")[0][:300]
    return None


def _dataset(event: Mapping[str, Any]) -> DatasetInput:
    source = event["source"]
    dataset = Dataset(
        name=event["name"],
        digest=event["digest"][:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps(source if isinstance(source, dict) else {"uri": source}),
        profile=json.dumps(event.get("profile") or {}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", event.get("context") or "training")])


def _chunks(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    """Yield chunks of at most `most` items and about _MOST_BYTES of JSON."""
    start = size = 0
    for at, item in enumerate(items):
        weight = len(json.dumps([item.key, item.value])) + 100
        if at - start == most or size + weight > _MOST_BYTES:
            yield items[start:at]
            start, size = at, 0
        size += weight
    if start < len(items):
        yield items[start:]


def _cut(value: Any, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - len(_CUT)] + _CUT
