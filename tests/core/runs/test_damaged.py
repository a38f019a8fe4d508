"""A damaged run, or one that somebody made up, is reported once and skipped: it never prevents work with the others."""

import json
import shutil
import signal
from contextlib import suppress

import pytest

from core.cli.list import best_on_record
from core.cli.main import run as run_verb
from core.cli.verbs import VERBS
from core.common.errors import Interrupted, UserError
from core.compare.runs import rows
from core.launch import Launch
from core.record import journal
from core.record.run import RECORD, RecordedRun, intact
from core.record.summary import read_summary
from core.runs.recorder import RunInfo, RunSpec
from core.runs.resume import interrupted, resume
from core.runs.seeds import resume_seeds, train_seeds
from core.runs.train import opened, train
from core.runs.trained import Run
from core.search import Float
from core.search.options import Search
from core.search.search import search
from core.training.runtime import open_runtime
from experiments.tiny import EXPERIMENT
from tests.support.runs import digest

SHORT = EXPERIMENT.but({"epochs": 1, "limit": 320, "monitor": "val/accuracy"})
QUIET = Launch(mlflow=False, threads=1, workers=0)


def _flip_line(path, place):
    """Flip a bit at the beginning of a line, which is no text of JSON then, whatever the line says."""
    content = bytearray(path.read_bytes())
    content[content.rfind(b"\n", 0, int(len(content) * place)) + 1] ^= 4
    path.write_bytes(content)


def _edit(**fields):
    def edit(run):
        path = run.folder / "artifacts" / RECORD
        _record(json.dumps(json.loads(path.read_text()) | fields).encode())(run)

    return edit


def _record(content):
    def write(run):
        (run.folder / "artifacts" / RECORD).write_bytes(content)
        journal.Journal(run.folder).log_artifact(RECORD)  # a digest is no obstacle to whoever makes up a run

    return write


DAMAGE = {
    "empty record": _record(b""),
    "cut record": lambda run: (run.folder / "artifacts" / RECORD).write_bytes(b'{"labbook": 2, "run'),
    "deep record": _record(b"[" * 100_000),
    "list as record": _record(b"[]"),
    "newer": _edit(labbook=99),
    "flipped journal": lambda run: _flip_line(run.folder / journal.FILE, 0.8),
    "journal of another kind": lambda run: (run.folder / journal.FILE).write_text('[1]\n{"event": "status"}\n'),
    "made up": _edit(data=5, facts=None, parent=["x"]),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        return train(SHORT, QUIET, "tiny")


def _copies(run, home):
    """Damaged runs that are later than `run`, one for each kind of damage."""
    made = []
    for number, (kind, damage) in enumerate(DAMAGE.items()):
        copy = Run(home / "mlruns" / "runs" / f"tiny-2999010{number + 1}-000000-0000")
        shutil.copytree(run.folder, copy.folder)
        damage(copy)
        made.append((kind, copy))
    return made


def _stopped(changes=None, parent=None):
    """A run that was interrupted after three steps."""
    spec = RunSpec(SHORT.but(changes or {}), QUIET, RunInfo("tiny", parent=parent))
    with suppress(Interrupted), open_runtime(QUIET, None) as runtime, opened(spec, runtime) as trainer:
        for event in trainer.events():
            if event.step == 3:
                raise Interrupted(signal.SIGTERM, "stopped")
    assert trainer.run.status == "KILLED"
    return trainer.run


def test_the_interrupted_run_is_found_behind_damaged_ones_which_are_reported_once(finished, home, capsys):
    stopped = _stopped()
    damaged = _copies(finished, home)
    assert interrupted("tiny") == stopped
    assert interrupted("tiny") == stopped
    text = capsys.readouterr().out
    for kind, run in damaged:
        assert text.count(f"{run.id} is skipped: ") == 1, kind
    assert "Traceback" not in text
    assert digest(resume(stopped)) == digest(finished)


def test_a_damaged_seed_is_trained_again_and_the_others_are_kept(home, capsys):
    group = train_seeds(SHORT, 2, QUIET, "tiny")
    first, second = group.runs
    _flip_line(second.folder / journal.FILE, 0.5)
    _flip_line(group.parent.folder / journal.FILE, 0)
    with pytest.raises(UserError, match=r"journal\.jsonl: line 1 is damaged"):
        resume_seeds(group.parent)
    _flip_line(group.parent.folder / journal.FILE, 0)  # back again
    log = journal.Journal(group.parent.folder)
    log.close("KILLED")
    again = resume_seeds(Run(group.parent.folder))
    assert again.runs[0].id == first.id
    assert again.runs[1].id not in (first.id, second.id)
    assert again.parent.status == "FINISHED"
    assert f"{second.id} is skipped" in capsys.readouterr().out


@pytest.mark.slow
def test_a_search_and_its_trials_are_found_beside_damaged_runs(finished, home, capsys):
    space = {"optimizer.lr": Float(0.01, 1.0, log=True)}
    options = Search(trials=2, workers=1, goal=("val/accuracy",))
    one = search(SHORT, space, options.but({"trials": 1}), QUIET, "tiny")
    damaged = _copies(finished, home)
    both = search(SHORT, space, options, QUIET, "tiny")
    assert both.parent.id == one.parent.id
    assert len(both.best) == 2
    assert damaged[0][1].id in capsys.readouterr().out


def test_lists_and_comparisons_show_the_rest(finished, home):
    good = Run(home / "mlruns" / "runs" / finished.id)
    shutil.copytree(finished.folder, good.folder)
    (_copies(finished, home)[0][1].folder / "summary.json").write_text("[]")
    accuracy = finished.metrics["test/accuracy"]
    summary = {"status": "FINISHED", "whole": True, "metrics": {"test/accuracy": accuracy}}
    (good.folder / "summary.json").write_text(json.dumps(summary))
    assert best_on_record("tiny") == (accuracy, good.id)
    found, lines = rows(["tiny"])
    assert good.id in [row.id for row in found]
    assert lines


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("verb", ["rerun", "resume", "report", "compare", "register"])
def test_a_damaged_run_that_is_named_is_an_error_of_a_few_lines(kind, verb, finished, home, capsys):
    run = Run(home / "mlruns" / "runs" / "tiny-29990101-000000-0000")
    shutil.copytree(finished.folder, run.folder)
    DAMAGE[kind](run)
    status = run_verb(verb, [run.id, *(["name"] if verb == "register" else [])], VERBS)
    error = capsys.readouterr().err
    if (verb, kind) == ("compare", "flipped journal"):  # it reads the beginning of the journal and the summary
        assert status == 0
        return
    assert status in (1, 2)
    assert "Traceback" not in error
    assert run.id in error


@pytest.mark.parametrize("fields", [
    {"experiment": 5}, {"experiment": None}, {"experiment": "../x"}, {"parent": "../../x"}, {"facts": {"a": 1}},
    {"data": {"image_shape": [1]}}, {"trial": "x"}, {"seeds": 0}, {"declaration": []},
])  # fmt: skip
def test_a_record_is_input_like_any_other(fields, finished, home):
    run = Run(home / "mlruns" / "runs" / finished.id)
    shutil.copytree(finished.folder, run.folder)
    _edit(**fields)(run)
    with pytest.raises(UserError, match=rf"record\.json: not a record: {next(iter(fields))}"):
        _ = run.record


def test_a_record_without_what_is_asked_of_it_is_an_error_of_the_file(finished, home):
    run = Run(home / "mlruns" / "runs" / finished.id)
    shutil.copytree(finished.folder, run.folder)
    _record(b'{"labbook": 2, "data": {}}')(run)
    with pytest.raises(UserError, match=r"record\.json: not a complete record: experiment is missing"):
        _ = run.experiment
    with pytest.raises(UserError, match="digest is missing"):
        _ = run.record["data"]["digest"]


def test_a_damaged_summary_is_computed_again(finished, home):
    run = Run(home / "mlruns" / "runs" / finished.id)
    shutil.copytree(finished.folder, run.folder)
    whole = read_summary(run)
    text = (run.folder / "summary.json").read_text()
    (run.folder / "summary.json").write_text(text.replace("0.", "1.", 1))
    assert read_summary(run) == whole


def test_an_artifact_outside_of_its_run_is_not_followed(home):
    log = journal.Journal(home / "mlruns" / "runs" / "tiny-20260101-000000-0000")
    log.write("artifact", path="../../../secret")
    with pytest.raises(UserError, match="outside the folder"):
        _ = RecordedRun(log.folder).status
    assert not list(intact([RecordedRun(log.folder)]))
