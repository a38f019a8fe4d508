"""Runs on record as a list, as JSON and as a DataFrame: which are there, in which order, and what stands in them."""

import json
import math
from datetime import datetime

import pandas as pd
import pytest

import core
from core.cli import list as experiments
from core.cli.runs import main
from core.common import paths
from core.common.errors import UserError
from core.compare.listing import Wanted, listed, since
from core.compare.runs import rows
from core.record import lock
from core.record.labels import ARCHIVED, write_labels
from experiments.tiny import EXPERIMENT


def ids(**wanted):
    return [run.run for run in listed(Wanted(**wanted))]


@pytest.fixture
def three(lab):
    """Ids of a wide, a plain and a failed run, the earliest first."""
    wide = lab(EXPERIMENT.but({"optimizer.lr": 0.5}), 0.75, variant="wide")
    return wide, lab(EXPERIMENT, 0.5), lab(EXPERIMENT, math.nan, status="FAILED", name="other", error="no")


def test_the_latest_run_comes_first_whatever_the_names(lab, three):
    wide, plain, failed = three
    later = lab(EXPERIMENT, 0.6, name="a_name_that_sorts_first")
    assert ids() == [later, failed, plain, wide]
    assert ids(experiments=["tiny"]) == [plain, wide]
    assert ids(variant="wide") == [wide]
    assert ids(variant="base", statuses=["FINISHED"]) == [later, plain]
    assert ids(since=datetime(2026, 1, 1, 0, 0, 2)) == [later, failed]
    with pytest.raises(UserError, match="tinny: no experiment with runs on record; did you mean tiny"):
        ids(experiments=["tinny"])


def test_runs_are_found_by_their_tags(three):
    wide, plain, _ = three
    write_labels(paths.runs() / wide, {"stage": "paper", "who": "me"})
    write_labels(paths.runs() / plain, {"stage": "draft"})
    assert ids(tags={"stage": None}) == [plain, wide]
    assert ids(tags={"stage": "paper", "who": None}) == [wide]
    write_labels(paths.runs() / plain, {"stage": ""})
    assert ids(tags={"stage": None}) == [wide]


def test_archived_runs_are_left_out_of_lists_and_comparisons_unless_named(lab, three, capsys):
    wide, plain, failed = three
    assert experiments.best_on_record("tiny") == (0.75, wide)
    write_labels(paths.runs() / wide, {ARCHIVED: "true"})
    assert ids() == [failed, plain]
    assert ids(archived=True) == [failed, plain, wide]
    assert experiments.best_on_record("tiny") == (0.5, plain)
    found, left = rows(["tiny"])
    assert [row.id for row in found] == [plain]
    assert left == [f"{wide}: archived; a run that is named is compared"]
    assert {row.id for row in rows(["tiny", wide])[0]} == {plain, wide}
    write_labels(paths.runs() / wide, {ARCHIVED: ""})
    assert ids() == [failed, plain, wide]


def test_a_run_that_no_process_trains_is_interrupted(lab, home):
    run = lab(EXPERIMENT, 0.5, status="RUNNING")
    assert [one.status for one in listed(Wanted())] == ["INTERRUPTED"]
    with lock.locked(paths.runs() / run):
        assert [one.status for one in listed(Wanted())] == ["RUNNING"]


def test_a_damaged_run_does_not_hide_the_others(three):
    wide, plain, failed = three
    (paths.runs() / plain / "artifacts" / "record.json").write_text("{")
    (paths.runs() / wide / "labels.jsonl").write_text("{}\n")
    (paths.runs() / "tiny-20260101-000009-dead").mkdir()  # of a process that was killed early
    skipped = []
    assert [run.run for run in listed(Wanted(), skipped)] == [failed]
    assert [line.partition(":")[0] for line in skipped] == [plain, wide]


def test_json_has_declared_values_with_their_types_and_no_number_that_json_lacks(three, capsys):
    assert main(["--json"]) == 0
    failed, plain, wide = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert failed["metrics"]["test/accuracy"] is None
    assert wide["params"]["optimizer.lr"] == 0.5
    assert wide["params"]["model.widths"] == [32, 64]
    assert wide["params"]["stopping"] == "EarlyStopping"
    assert (plain["run"], plain["variant"], plain["seconds"], plain["parameters"]) == (three[1], "base", 60.0, 1000)
    assert main(["tiny", "--last", "1", "--json"]) == 0
    assert [one["run"] for one in json.loads(capsys.readouterr().out)] == [three[1]]
    assert main(["--tag", "nothing", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_data_frame_has_a_row_for_each_run(three, tmp_path, capsys):
    write_labels(paths.runs() / three[0], {"stage": "paper"})
    found = core.runs_frame()
    assert list(found.index) == list(reversed(three))
    assert found.loc[three[0], "params.optimizer.lr"] == 0.5
    assert found.loc[three[0], "tags.stage"] == "paper"
    assert found["started"].dt.year.tolist() == [2026] * 3
    best = found[found.status == "FINISHED"].groupby("params.optimizer.lr")["metrics.test/accuracy"].max()
    assert best.to_dict() == {0.5: 0.75, 0.1: 0.5}
    assert list(core.runs_frame("tiny").index) == [three[1], three[0]]
    assert main(["--csv", str(tmp_path / "runs.csv")]) == 0
    written = pd.read_csv(tmp_path / "runs.csv", index_col="run")
    pd.testing.assert_series_equal(written["metrics.test/accuracy"], found["metrics.test/accuracy"])


def test_a_home_without_runs_is_an_empty_list(capsys):
    assert core.runs_frame().empty
    assert main([]) == 0
    assert capsys.readouterr().out == "no such run is on record\n"


def test_the_table_shows_the_latest_runs_and_says_that_there_are_more(three, capsys):
    assert main(["--last", "2"]) == 0
    out = capsys.readouterr().out
    assert [word for word in out.split() if word in three] == [three[2], three[1]]
    assert "50.00" in out
    assert "the latest 2; --last N shows more" in out


def test_mistakes_are_named():
    with pytest.raises(UserError) as caught:
        main(["--status", "done", "--last", "0"])
    assert [line.partition(":")[0] for line in caught.value.lines] == ["--status done", "--last"]
    with pytest.raises(UserError, match="--since yesterday: should be a date"):
        main(["--since", "yesterday"])


def test_times_are_dates_or_so_long_ago():
    assert since("2026-11-30") == datetime(2026, 11, 30)
    assert since("2026-11-30T12:30") == datetime(2026, 11, 30, 12, 30)
    assert 6.9 < (datetime.now() - since("7d")).total_seconds() / 86400 < 7.1
