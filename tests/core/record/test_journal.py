"""The log that is the truth: whole lines, whatever happens to the process or the disk."""

import errno
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.record import journal
from core.record.journal import Journal


def lines(folder):
    return [event for _, event in journal.read(folder)]


@given(
    st.dictionaries(st.text(max_size=20), st.floats() | st.integers(-(2**53), 2**53), max_size=5), st.integers(0, 2**40)
)
def test_what_is_written_is_read_back(tmp_path_factory, values, step):
    folder = tmp_path_factory.mktemp("run")
    Journal(folder).metrics(step, values)
    (event,) = lines(folder)
    assert event["step"] == step
    assert repr(event["values"]) == repr(values)
    Journal(folder).write("metrics", time=event["time"], step=step, values=values)
    first, second = (folder / journal.FILE).read_bytes().splitlines()
    assert first == second


def test_the_first_entry_for_a_metric_and_step_stands(tmp_path):
    log = Journal(tmp_path)
    log.metrics(1, {"a": 1.0, "b": 2.0})
    log.metrics(1, {"a": 9.0})
    log.metrics(2, {"a": math.nan})
    found = journal.history(tmp_path)
    assert found["a"][1] == 1.0
    assert math.isnan(found["a"][2])
    assert found["b"] == {1: 2.0}


@pytest.mark.parametrize("cut", range(1, 30, 4))
def test_a_torn_last_line_is_not_read_and_cut_off_by_the_next_writer(tmp_path, cut):
    log = Journal(tmp_path)
    log.metrics(1, {"a": 1.0})
    log.metrics(2, {"a": 2.0})
    path = tmp_path / journal.FILE
    os.truncate(path, path.stat().st_size - cut)
    assert len(lines(tmp_path)) == 1
    Journal(tmp_path).metrics(3, {"a": 3.0})
    assert journal.history(tmp_path)["a"] == {1: 1.0, 3: 3.0}


def test_a_disk_that_takes_half_a_line_leaves_the_log_readable(tmp_path, monkeypatch):
    log = Journal(tmp_path)
    log.metrics(1, {"a": 1.0})
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: write(file, content[: len(content) // 2]))
    with pytest.raises(OSError, match="No space") as caught:
        log.metrics(2, {"a": 2.0})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    log.metrics(3, {"a": 3.0})
    assert journal.history(tmp_path)["a"] == {1: 1.0, 3: 3.0}


def test_reading_goes_on_from_an_offset(tmp_path):
    log = Journal(tmp_path)
    for step in range(5):
        log.metrics(step, {"a": step})
    offsets = [offset for offset, _ in journal.read(tmp_path)]
    assert [event["step"] for _, event in journal.read(tmp_path, start=offsets[2])] == [3, 4]
    assert offsets[-1] == (tmp_path / journal.FILE).stat().st_size


def test_the_last_status_counts_and_a_run_without_one_is_running(tmp_path):
    log = Journal(tmp_path)
    assert journal.status(tmp_path) == "RUNNING"
    log.close("KILLED")
    assert journal.status(tmp_path) == "KILLED"
    log = Journal(tmp_path)
    log.write("status", value="RUNNING")
    assert journal.status(tmp_path) == "RUNNING"
