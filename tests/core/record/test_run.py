"""Runs on record, read back from their folders."""

import json

import pytest

from core.common import paths
from core.common.errors import UserError
from core.record.ids import begun, new_id
from core.record.journal import Journal, log_text
from core.record.labels import NAME, write_labels
from core.record.run import RECORD, VERSION, RecordedRun


def on_record(name, parent=None, experiment="digits_cnn"):
    journal = Journal(paths.runs() / f"{experiment}-20260101-{name}")
    record = {"labbook": VERSION, "run": journal.run_id, "experiment": experiment, "parent": parent}
    log_text(journal, RECORD, json.dumps(record))
    return RecordedRun(journal.folder)


def test_the_children_of_a_parent_are_the_runs_below_it_the_latest_first():
    parent, other = on_record("000000-aaaa"), on_record("000001-aaaa")
    first, second = (on_record(f"00000{n}-aaaa", parent.id) for n in (2, 3))
    on_record("000004-aaaa", other.id)
    on_record("000005-aaaa", parent.id, "digits_cnn-wide")
    assert list(parent.children()) == [second, first]
    assert list(first.children()) == []


def test_a_damaged_record_does_not_hide_the_children_beside_it():
    parent = on_record("000000-aaaa")
    child, damaged = on_record("000001-aaaa", parent.id), on_record("000002-aaaa", parent.id)
    (damaged.folder / "artifacts" / RECORD).write_text("{")
    assert list(parent.children()) == [child]
    with pytest.raises(UserError):
        _ = RecordedRun(damaged.folder).record


def test_a_run_is_named_as_latest_or_by_its_id_in_mlflow(home):
    older = on_record("000001-aaaa")
    newest = on_record("000003-bbbb", experiment="a_later_name_comes_first")
    between = on_record("000002-cccc", experiment="zzz")
    assert RecordedRun.load("latest").id == newest.id
    (between.folder / "mirror.json").write_text('{"run_id": "0123456789abcdef0123456789abcdef"}')
    assert RecordedRun.load("0123456789abcdef0123456789abcdef").id == between.id
    assert RecordedRun.load(older.id).id == older.id
    with pytest.raises(UserError, match="run not found"):
        RecordedRun.load("f" * 32)


def test_a_name_is_answered_with_the_id_that_it_stands_for(home):
    run = on_record("000001-aaaa")
    write_labels(run.folder, {NAME: "größer"})
    with pytest.raises(UserError, match=f"größer: this is the name of {run.id}; use the id"):
        RecordedRun.load("größer")


def test_runs_that_begin_in_the_same_second_have_an_order(home):
    ids = [new_id("tiny") for _ in range(50)]
    assert sorted(ids) == ids
    assert len(set(ids)) == 50
    older = "tiny-20200101-000000-ffff"  # of a version whose ids ended in a random number
    assert max([older, *ids, new_id("another")], key=begun).startswith("another-")
