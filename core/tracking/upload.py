"""Send the entries of a journal to MLflow in batches; progress is saved after each complete batch."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from core.common.failpoints import failpoint
from core.common.text import public
from core.record import journal
from core.tracking.client import check_run, permanent
from core.tracking.cursor import Record, entries

_MOST_METRICS, _MOST_TEXTS = 1000, 100  # in one call; MLflow's limits, as are the lengths
_MOST_BYTES = 900_000
_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000
_DIGEST_LENGTH = 8  # same as MLflow's own digests, which fit its table of runs; the record has the full digest
_CUT = " ... (cut; whole in journal.jsonl)"


class Sent:
    """The set of (metric, step) that were sent, in eight bytes each: only the first entry for each is sent."""

    def __init__(self) -> None:
        self._steps: dict[str, array[int]] = {}

    def first(self, name: str, step: int) -> bool:
        """Returns whether this is the first entry for the metric and step, and adds it."""
        steps = self._steps.setdefault(name, array("q"))
        at = len(steps) if not steps or step > steps[-1] else bisect_left(steps, step)
        if at < len(steps) and steps[at] == step:
            return False
        steps.insert(at, step)
        return True


@dataclass(frozen=True)
class Batch:
    """Entries of `file` up to byte `end`: either metrics, params and tags, or one event of another kind."""

    file: str
    end: int
    metrics: list[Metric] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    event: dict[str, Any] | None = None
    refused: list[str] = field(default_factory=list)

    @property
    def trains(self) -> bool:
        """Whether the batch was written by a running run; artifacts and tags may also be added after its end."""
        trains = self.metrics or self.params or (self.event and self.event["event"] == "run")
        return self.file == journal.FILE and bool(trains)


def gather(folder: Path, file: str, start: int, sent: Sent) -> Batch | None:
    """Returns the next batch after byte `start`, or None without a complete line."""
    batch = Batch(file, start)
    for end, event in entries(folder, file, start):
        match event["event"]:
            case "metrics":
                for name, value in event["values"].items():
                    if not isinstance(value, int | float):
                        batch.refused.append(f"metric {name}: {value!r} is not a number")
                    elif sent.first(name, event["step"]):
                        batch.metrics.append(Metric(name, float(value), event["time"], event["step"]))
            case "params":
                batch.params.update({name: text for name, text in event["values"].items() if name not in batch.params})
            case "tags":
                batch.tags.update(event["values"])
            case _ if batch.end > start:
                break  # the lines before it are sent first
            case _:
                return replace(batch, end=end, event=event)
        batch = replace(batch, end=end)
        if len(batch.metrics) >= _MOST_METRICS:
            break
    return batch if batch.end > start else None


def replay(folder: Path, file: str, end: int, sent: Sent) -> dict[str, Any] | None:
    """Add the metrics up to byte `end`, which earlier mirrors sent, to `sent`. Returns the last "run" event there."""
    run = None
    for offset, event in entries(folder, file, 0):
        if offset > end:
            break
        if event["event"] == "metrics":
            for name in event["values"]:
                sent.first(name, event["step"])
        elif event["event"] == "run":
            run = event
    return run


def send(client: MlflowClient, folder: Path, record: Record, batch: Batch) -> Record:
    """Send a batch. Returns the new record, which names the entries that MLflow rejected; they are skipped.

    Raises what MLflow raises if the batch has to be sent again, which is harmless, and Deleted or Missing if the run
    does not accept entries any more.
    """
    failpoint("batch gathered")
    run = record.run_id
    status = record.status
    if batch.trains and status in journal.ENDED:  # the run was resumed
        client.update_run(run, status="RUNNING")
        status = "RUNNING"
    params = [Param(name, _cut(text, _PARAM_LENGTH)) for name, text in batch.params.items()]
    tags = [RunTag(name, _cut(text, _TAG_LENGTH)) for name, text in batch.tags.items()]
    refused = [
        *batch.refused,
        *_send_all(lambda chunk: client.log_batch(run, params=chunk), params, _MOST_TEXTS),
        *_send_all(lambda chunk: client.log_batch(run, tags=chunk), tags, _MOST_TEXTS),
        *_send_all(lambda chunk: client.log_batch(run, metrics=chunk), batch.metrics, _MOST_METRICS),
    ]
    if batch.event and batch.file == journal.FILE:
        refused += _send_event(client, folder, run, batch.event)
        status = batch.event["value"] if batch.event["event"] == "status" else status
    if refused:
        check_run(client, run)
    failpoint("batch sent")
    record = record.at(batch.file, batch.end)
    return replace(record, status=status, refused=record.with_refused(refused), problem="")


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


def _send_event(client: MlflowClient, folder: Path, run: str, event: dict[str, Any]) -> list[str]:
    match event["event"]:
        case "dataset":
            refusal = _refusal(lambda: client.log_inputs(run, [_dataset(event)]))
            return [f"dataset {event['name']}: {refusal}"] if refusal else []
        case "artifact":
            path = Path(event["path"])
            into = None if path.parent == Path() else path.parent.as_posix()
            refusal = _refusal(lambda: client.log_artifact(run, str(folder / "artifacts" / path), into))
            return [f"artifact {path}: {refusal}"] if refusal else []
        case "status" if event["value"] in journal.ENDED:
            client.set_terminated(run, event["value"], event["time"])
        case "status":
            client.update_run(run, status=event["value"])
        case "digest":
            pass  # of an artifact that is not complete yet
        case "run":
            pass  # the first "run" event created the run; a resumed run has several
        case kind:
            return [f"event {kind} at byte {event.get('end', '?')}: unknown event"]
    return []


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
        if not permanent(error):
            raise
        return public(str(error)).partition("\n")[0][:300]
    return None


def _dataset(event: dict[str, Any]) -> DatasetInput:
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
