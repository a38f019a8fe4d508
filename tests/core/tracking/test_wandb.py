"""An offline run of W&B has what the journal has, once: also after a kill and a resume. W&B's own messages are read."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.cli.sync import main as sync
from core.record import journal
from core.tracking import cursor
from core.tracking.api import Mirror, mirror_status
from core.tracking.destinations import WANDB
from tests.support.mlflow_server import begin, kill, wait_for
from tests.support.optional import library

library("wandb", extra="wandb")
STEP = "labbook/step"


def offline(run: Path) -> Path:
    """The only offline run of a run."""
    (folder,) = Path(WANDB.place()).glob(f"offline-run-*-{run.name}")
    return folder


def records(run: Path) -> Iterator[Any]:
    """Yield what W&B wrote. Its file is a log of LevelDB, with a header of 7 bytes, of protobuf messages of wandb."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = offline(run).glob("run-*.wandb")
    content, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield Record.FromString(parts)
            parts = b""
        assert kind in (1, 2, 3, 4)


def rows(run: Path) -> list[dict[str, Any]]:
    found = []
    for record in records(run):
        if record.WhichOneof("record_type") == "history":
            names = [item.key or "/".join(item.nested_key) for item in record.history.item]
            texts = [item.value_json for item in record.history.item]
            found.append({name: json.loads(text) for name, text in zip(names, texts, strict=True)})
    return found


def assert_whole(run: Path) -> None:
    found: dict[str, dict[int, float]] = {}
    for row in rows(run):
        for name, value in row.items():
            if not name.startswith("_") and name != STEP and not isinstance(value, dict):
                assert row[STEP] not in found.setdefault(name, {}), f"{name} is there twice"
                found[name][row[STEP]] = float(value)
    expected = journal.history(run)
    assert repr(found) == repr({name: {step: float(v) for step, v in each.items()} for name, each in expected.items()})
    exits = [record.exit.exit_code for record in records(run) if record.WhichOneof("record_type") == "exit"]
    assert exits == [0 if journal.status(run) == "FINISHED" else 1]


def test_a_run_arrives_whole_after_a_kill_and_a_resume(home):
    log = begin("arrives", name="the name", description="Does it arrive?", parent="another")
    log.write("params", values={"optimizer.lr": "0.1", "model": "MLP"})
    log.write("tags", values={"device": "cpu"})
    log.write("dataset", name="digits", digest="d" * 64, source="sklearn", context="training", profile={"train": 3})
    log.artifact("answers/table.csv").write_text("1,2\n")
    log.log_artifact("answers/table.csv")
    mirror = Mirror(WANDB)
    mirror.follow(log.folder)
    log.metrics(0, {"train/loss": 1.0})
    wait_for(lambda: mirror_status(log.folder, WANDB).waiting == 0, 60)
    kill(mirror)
    for step in range(1, 50):
        log.metrics(step, {"train/loss": 1 / step, "odd": math.nan if step == 3 else step})
    log.metrics(7, {"train/loss": 99.0})
    log.close("KILLED")
    assert sync(["--to", "wandb"]) == 0
    assert_whole(log.folder)
    first = offline(log.folder)
    assert sync(["--to", "wandb"]) == 0
    assert offline(log.folder) == first  # nothing was missing

    log = begin("arrives")
    log.metrics(50, {"train/loss": 0.0})
    log.close("FINISHED")
    assert sync(["--to", "wandb"]) == 0
    assert_whole(log.folder)
    assert (offline(log.folder) / "files/answers/table.csv").read_text() == "1,2\n"
    times = {
        event["step"]: event["time"] / 1000 for _, event in journal.read(log.folder) if event["event"] == "metrics"
    }
    assert {row[STEP]: row["_timestamp"] for row in rows(log.folder)}[50] == times[50]
    configs = [item for record in records(log.folder) for item in record.run.config.update or record.config.update]
    config = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in configs}
    assert config["optimizer.lr"] == 0.1
    assert (config["model"], config["tags.device"], config["data.digits"]["name"]) == ("MLP", "cpu", "digits")
    (run,) = [record.run for record in records(log.folder) if record.WhichOneof("record_type") == "run"][:1]
    assert (run.run_id, run.display_name, run.notes) == ("arrives", "the name", "Does it arrive?")
    assert (run.project, run.run_group) == ("tracking", "another")
    stored = cursor.load(log.folder, "wandb")
    assert stored is not None
    assert stored.status == "FINISHED"
