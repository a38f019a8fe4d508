"""The command line around training: experiments that cannot be read, verbs, `labbook`."""

import json
import sys

import pytest

import experiments
from core import __main__ as labbook
from core import cli, listing, paths

BROKEN = '''"""Is it broken?

Expected: not yet measured
"""

from experiments.digits_cnn import EXPERIMENT as BASE

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
        cli.main("experiments.broken", ["--smoke"])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert "broken/__init__.py, line 8: epochs: should be a valid integer" in error
    assert "batch_sice: no such field" in error


def test_a_broken_experiment_does_not_hide_the_others(broken, capsys):
    found = {entry.name: entry for entry in listing.entries()}
    assert found["broken"].question.startswith("cannot be read: ValidationError")
    assert found["digits_cnn"].question.endswith("?")


def test_a_damaged_summary_does_not_hide_the_best(home):
    for name, text in (("x-1", "{"), ("x-2", json.dumps(summary(0.7))), ("x-3", json.dumps(summary(0.9, whole=False)))):
        (paths.runs() / name).mkdir(parents=True)
        (paths.runs() / name / "summary.json").write_text(text)
    assert listing.best_on_record("x") == (0.7, "x-2")


def summary(accuracy, whole=True):
    return {"status": "FINISHED", "metrics": {"test/accuracy": accuracy}, "whole": whole}


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "usage: labbook VERB"),
        (["--help"], 0, "sync"),
        (["synk"], 2, "did you mean sync?"),
        (["sync", "nowhere-1"], 2, "no such run"),
        (["sync"], 0, "0 of 0 runs are complete"),
    ],
    ids=["nothing", "help", "misspelt", "unknown_run", "no_runs"],
)
def test_labbook(words, status, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["labbook", *words])
    with pytest.raises(SystemExit) as left:
        labbook.main()
    captured = capsys.readouterr()
    assert left.value.code == status
    assert message in captured.out + captured.err


def test_without_network_and_data_one_message_says_what_to_do(capsys, monkeypatch, home):
    monkeypatch.setenv("LABBOOK_CIFAR_URL", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(SystemExit) as left:
        cli.main("experiments.cifar_resnet", [])
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith("python -m experiments.cifar_resnet: nothing was started\n")
    assert f"put the file at {paths.store() / 'cifar-10-python.tar.gz'}" in error
    assert "python -m experiments.cifar_resnet --data Digits" in error
    assert "--root PATH" in error
    assert not paths.runs().exists()
