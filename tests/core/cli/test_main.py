"""The command line around training: experiments that cannot be read, verbs, `labbook`."""

import errno
import json
import re
import sys

import pytest

import experiments
from core.catalogue import entries
from core.cli import evaluate
from core.cli import list as listing
from core.cli import main as command
from core.cli.verbs import VERBS
from core.common import paths
from core.common.errors import UserError
from core.compare.runs import rows
from core.record import journal
from core.record.run import RECORD, VERSION
from core.record.summary import SUMMARY
from core.runs.trained import Run, load

BROKEN = '''"""Is it broken?

Expected: not yet measured
"""

from experiments.tiny import EXPERIMENT as BASE

EXPERIMENT = type(BASE)(
    data=BASE.data, model=BASE.model, optimizer=BASE.optimizer, epochs="many", batch_sice=3
)
'''


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """An experiment whose declaration has two mistakes."""
    folder = tmp_path / "experiments" / "broken"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(BROKEN)
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(folder.parent)])
    yield
    sys.modules.pop("experiments.broken", None)


def test_mistakes_in_a_declaration_name_file_line_and_field(broken, capsys):
    with pytest.raises(SystemExit) as left:
        command.experiment("experiments.broken", ["--smoke"])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert "broken/__init__.py, line 8: epochs: should be a valid integer" in error
    assert "batch_sice: unknown field; did you mean batch_size?" in error


def test_a_broken_experiment_does_not_hide_the_others(broken, capsys):
    found = {entry.name: entry for entry in entries()}
    assert found["broken"].question.startswith("cannot be read: ValidationError")
    assert found["tiny"].question.endswith("?")


def test_a_damaged_summary_does_not_hide_the_best(home):
    for number, text in enumerate(("{", summary(0.7), summary(0.9, whole=False))):
        on_record("x", number, text)
    assert listing.best_on_record("x") == (0.7, "x-20260101-000000-0001")


def test_an_experiment_is_not_credited_with_the_runs_of_one_whose_name_begins_like_its_own(home):
    wide = on_record("tiny-wide", 1, summary(0.99))
    assert listing.best_on_record("tiny") is None
    assert list(Run.of_experiment("tiny")) == []
    with pytest.raises(UserError, match="tiny: no experiment with runs on record"):
        rows(["tiny"])
    with pytest.raises(UserError, match="tiny: run not found"):
        load("tiny")
    assert load("tiny-w") == wide
    own = on_record("tiny", 2, summary(0.9))
    assert listing.best_on_record("tiny") == (0.9, own.id)
    assert listing.best_on_record("tiny-wide") == (0.99, wide.id)
    assert [list(Run.of_experiment(name)) for name in ("tiny", "tiny-wide")] == [[own], [wide]]
    assert load("tiny") == own


def test_a_run_on_other_data_or_with_another_model_is_no_result_of_the_experiment(home):
    kinds = {"data": {"class": "data.digits.Digits"}, "model": {"class": "core.models.simple.SmallCNN"}}
    own = {"labbook": VERSION, "experiment": "tiny", "declaration": kinds}
    other = {**own, "declaration": {**kinds, "data": {"class": "data.folder.ImageFolder"}}}
    on_record("tiny", 1, summary(1.0), record=json.dumps(other | {"run": "tiny-20260101-000000-0001"}))
    best = on_record("tiny", 2, summary(0.9), record=json.dumps(own | {"run": "tiny-20260101-000000-0002"}))
    assert listing.best_on_record("tiny") == (0.9, best.id)


def test_a_damaged_record_hides_no_other_run_and_is_not_passed_over(home):
    on_record("tiny-wide", 1, summary(0.99), record="{")
    damaged, own = on_record("tiny", 2, summary(0.8), record="{"), on_record("tiny", 3, summary(0.7))
    assert list(Run.of_experiment("tiny")) == [own, damaged]
    with pytest.raises(UserError, match="not a record"):
        _ = damaged.record


def test_the_listing_reads_no_journal(home, monkeypatch):
    own = on_record("x", 1, summary(0.7))
    monkeypatch.setattr(journal, "read", lambda *words: pytest.fail("a journal was read"))
    assert listing.best_on_record("x") == (0.7, own.id)


def on_record(experiment, number, summary, record=None):
    """A run's folder with what a listing reads."""
    run = Run(paths.runs() / f"{experiment}-20260101-000000-{number:04x}")
    (run.folder / "artifacts").mkdir(parents=True)
    (run.folder / journal.FILE).touch()
    (run.folder / SUMMARY).write_text(summary)
    text = json.dumps({"labbook": VERSION, "run": run.id, "experiment": experiment})
    (run.folder / "artifacts" / RECORD).write_text(record or text)
    return run


def summary(accuracy, whole=True):
    return json.dumps({"status": "FINISHED", "metrics": {"test/accuracy": accuracy}, "whole": whole})


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "usage: labbook VERB"),
        (["--help"], 0, "  sync [RUN ...]  "),
        (["trian"], 2, "labbook: 1 error, nothing was started\n  trian: unknown verb; did you mean train?"),
        (["tiny"], 2, "to train it: labbook train tiny"),
        (["train"], 2, "EXPERIMENT is missing; choose one of cifar_cnn"),
        (["report"], 2, "labbook report: 1 error\n  RUN is missing; usage: labbook report RUN"),
        (["compare", "x", "--metrik", "y"], 2, "--metrik: unknown option; did you mean --metric?"),
        (["ui", "--port", "x"], 2, "--port: should be an integer (got 'x')"),
        (["ui", "--port"], 2, "--port: needs a value"),
        (["synk"], 2, "did you mean sync?"),
        (["sync", "nowhere-1"], 2, "run not found"),
        (["sync"], 0, "0 of 0 runs are complete"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_labbook(words, status, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["labbook", *words])
    with pytest.raises(SystemExit) as left:
        command.labbook()
    captured = capsys.readouterr()
    assert left.value.code == status
    assert message in captured.out + captured.err


def test_the_list_for_programs(home, capsys):
    run = on_record("tiny", 1, summary(0.9))
    assert listing.main(["--json"]) == 0
    [found] = [one for one in json.loads(capsys.readouterr().out) if one["experiment"] == "tiny"]
    assert (found["best"], found["run"]) == (0.9, run.id)
    assert found["question"].endswith("?")


def test_a_full_disk_is_one_message(monkeypatch, capsys):
    def full(words):
        raise OSError(errno.ENOSPC, "No space left on device", "/lab/a.json")

    monkeypatch.setattr(evaluate, "main", full)
    assert command.run("evaluate", ["x"], VERBS) == 2
    said = capsys.readouterr().err
    assert "/lab/a.json: No space left on device" in said
    assert "Traceback" not in said


def test_without_network_and_data_one_message_says_what_to_do(capsys, monkeypatch, home):
    monkeypatch.setenv("LABBOOK_CIFAR_URL", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(SystemExit) as left:
        command.experiment("experiments.pictures", [])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith("labbook train: 1 error, nothing was started\n")
    assert f"put the file at {paths.store() / 'cifar-10-python.tar.gz'}" in error
    assert "python -m experiments.pictures --data Digits" in error
    assert "--root PATH" in error
    assert not paths.runs().exists()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["labbook", verb, "--help"])
    with pytest.raises(SystemExit) as left:
        command.labbook()
    out = capsys.readouterr().out
    assert left.value.code == 0
    assert f"usage: labbook {verb}" in out
    # commands to be copied are not broken
    assert max(len(line) for line in out.splitlines() if not line.startswith("  labbook")) <= 100


def test_verbs_are_the_files_of_the_room_and_each_takes_one_line(monkeypatch, capsys):
    files = {path.stem.rstrip("_") for path in (paths.ROOT / "core" / "cli").glob("*.py")}
    assert files - {"__init", "exits", "help", "main", "find_experiment", "outcome", "processes", "verbs"} == {*VERBS}
    monkeypatch.setattr(sys, "argv", ["labbook", "--help"])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        command.labbook()
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"  {verb} ") for line in lines) for verb in VERBS)
    assert max(map(len, lines)) <= 100
    assert not any(line.startswith("   ") for line in lines)


def test_the_list_fits_80_columns_and_breaks_no_name(home, capsys):
    own = on_record("folder_finetune", 1, summary(0.9))
    listing.main([])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for entry in entries():
        assert re.search(rf"^{entry.name} +(\d+\.\d+ % \+- \d+\.\d+|-)  ", out, re.MULTILINE), entry.name
    assert re.search(r"^folder_finetune +- +90.00%  \w", out, re.MULTILINE)
    assert f" {own.id}\n" in out
