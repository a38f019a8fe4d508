"""What a user says about a run in MLflow: its name, note and tags, whether the run is trained or has ended."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient

from core.cli import archive, note, rename, tag
from core.record.labels import ARCHIVED, write_labels
from core.tracking import cursor
from core.tracking.api import mirror_status, tracking_uri
from core.tracking.registered import models_of
from tests.support import mlflow_server
from tests.support.mlflow_server import begin, mirror_now, run_of

empty_store = mlflow_server.empty_store
cold = mlflow_server.cold
home = mlflow_server.home
RUN = "tiny-20260101-000000-abcd"


def test_labels_reach_a_run_that_has_ended_and_it_stays_ended(home: Path, capsys) -> None:
    log = begin(RUN)
    log.metrics(0, {"loss": 1.0})
    write_labels(log.folder, {"stage": "draft", "mlflow.runName": "while it was trained"})
    log.write("status", value="FINISHED", time=1)
    log.close(None)
    assert mirror_now(log) == 0
    assert (run_of(RUN).info.run_name, run_of(RUN).data.tags["stage"]) == ("while it was trained", "draft")
    assert mirror_status(log.folder).complete

    write_labels(log.folder, {"mlflow.note.content": "never seen there"})
    assert mirror_status(log.folder).waiting == 1
    for verb, words in ((tag, ["stage=paper", "who=me"]), (tag, ["who="]), (rename, ["best"]), (note, ["Two\nlines."])):
        texts = verb.tag_texts(words) if verb is tag else {verb.NAME if verb is rename else verb.NOTE: words[0]}
        write_labels(log.folder, texts)
    assert mirror_now(log) == 0
    run = run_of(RUN)
    tags = run.data.tags
    assert (run.info.run_name, run.info.status, run.info.end_time) == ("best", "FINISHED", 1)
    assert (tags["stage"], tags["who"], tags["mlflow.note.content"]) == ("paper", "", "Two\nlines.")
    assert mirror_status(log.folder).complete
    assert cursor.load(log.folder).refused == ()  # type: ignore[union-attr]


def test_verbs_send_what_they_change_in_one_go(home: Path, capsys, monkeypatch) -> None:
    log = begin(RUN)
    log.artifact("record.json").write_text('{"labbook": 4, "experiment": "tiny"}')
    log.close("FINISHED")
    assert tag.main([RUN, "stage=paper"]) == 0  # a run that MLflow does not have waits for sync
    assert cursor.load(log.folder) is None
    assert mirror_now(log) == 0
    sent = []
    monkeypatch.setattr(tag, "sync", lambda folders, patience: sent.append(list(folders)) or [])
    assert tag.main([RUN, "stage=draft"]) == 0
    assert note.main([RUN, "see page 3"]) == 0
    assert rename.main([RUN, "best"]) == 0
    assert archive.main([RUN]) == 0
    assert sent == [[log.folder]] * 4
    assert capsys.readouterr().out.splitlines() == [
        f"{RUN}: stage=paper", f"{RUN}: stage=draft", f"{RUN}: see page 3", f"{RUN}: best", f"{RUN}: archived",
    ]  # fmt: skip
    assert mirror_now(log) == 0
    assert run_of(RUN).data.tags[ARCHIVED] == "true"
    assert archive.main([RUN, "--undo"]) == 0
    assert note.main([RUN]) == 0
    assert tag.main([RUN]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"{RUN}: see page 3", f"{RUN}: stage=draft"]


def test_models_in_the_registry_are_found_by_their_run(home: Path) -> None:
    log, other = begin(RUN), begin("tiny-20260101-000001-abcd")
    assert models_of([log.folder]) == {}  # not in this store: MLflow is not asked
    for one in (log, other):
        one.close("FINISHED")
    assert mirror_now(log, other) == 0
    client = MlflowClient(tracking_uri())
    client.create_registered_model("digits")
    client.create_model_version("digits", "file:///nowhere", run_of(RUN).info.run_id, {"labbook.run": RUN})
    assert models_of([log.folder, other.folder]) == {RUN: ["digits version 1"]}
