"""The command line of labbook queue, and one real training in it."""

import json
import os
import signal
import sys

import pytest

from core.cli import main as labbook
from core.cli import queue as command_line
from core.common.errors import UserError
from core.queue import entries
from core.runs.trained import load
from core.training.checkpoint import CHECKPOINTS
from tests.support.processes import wait_for_step
from tests.support.runs import digest, only_run, points

FAST = "--batch_size 8 --limit 320 --mlflow false --threads 1".split()


def queue(words, monkeypatch, capsys):
    """(exit status, standard output, standard error) of labbook queue."""
    monkeypatch.setattr(sys, "argv", ["labbook", "queue", *words])
    with pytest.raises(SystemExit) as left:
        labbook.labbook()
    return left.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ("ad tiny", ["ad: unknown verb; did you mean add?"]),
        ("add --epochs 3", ["EXPERIMENT is missing, before its options"]),
        ("add tin", ["tin: unknown experiment; did you mean tiny"]),
        ("add tiny trian", ["trian: unknown verb; did you mean train?"]),
        ("add tiny --optimizer.lrr 1 --after 7 --grid seed=a,b", ["--after 7: the queue has no such entry",
         "--seed: should be a valid integer (got 'b')", "did you mean --optimizer.lr"]),
        ("add tiny --grid variant=mlp,plian", ["--variant plian: unknown variant; did you mean plain?"]),
        ("add tiny --seed 1 --grid seed=0,1", ["--seed: given twice"]),
        ("add tiny search --trialss 3", ["--trialss: unknown option; did you mean --trials?"]),
        ("add tiny resume nothing", ["nothing: run not found"]),
        ("add tiny --device cuda:1", ["--device cuda:N: the queue gives each run its GPU"]),
        ("add tiny --notify https://host/SECRET", ["set LABBOOK_NOTIFY"]),
        ("add tiny --grid --epochs 3", ["--grid: needs NAME=VALUE,VALUE"]),
        ("add tiny --after x", ["--after x: should be numbers of entries"]),
        ("retry 4", ["4: the queue has no such entry"]),
        ("rm 4", ["4: the queue has no such entry"]),
        ("rm x", ["should be a positive integer (got x)"]),
        ("run --jobs 0", ["--jobs: should be a positive integer (got 0)"]),
        ("run --core 1000", ["--core"]),
        ("run --cores 100000", ["--cores 100000: this process may use"]),
        ("submit 1 --nodess 3 --changed no", ["--nodess: unknown option", "--changed: should be hold or run"]),
    ],
)  # fmt: skip
def test_mistakes_are_named_and_nothing_is_added(words, messages, monkeypatch, capsys):
    status, out, err = queue(words.split(), monkeypatch, capsys)
    assert (status, out) == (2, "")
    for message in messages:
        assert message in err
    assert "SECRET" not in err
    assert not entries.numbers()


def test_a_grid_becomes_entries_in_an_order_that_is_told(monkeypatch, capsys):
    words = "add --grid variant=mlp,plain seed=0,1 tiny --epochs 3".split()
    status, out, _ = queue(words, monkeypatch, capsys)
    command = "python -m experiments.tiny --epochs 3"
    grid = [f"--variant {variant} --seed {seed}" for variant in ("mlp", "plain") for seed in (0, 1)]
    assert (status, out.splitlines()) == (0, [f"{n}: {command} {options}" for n, options in enumerate(grid, 1)])
    again = "add tiny --epochs 3 --variant mlp --seed 0".split()
    assert "(entry 1, which waits, has the same command)" in queue(again, monkeypatch, capsys)[1]
    assert queue(["add", "--after", "1,2", "tiny"], monkeypatch, capsys)[0] == 0
    assert entries.get(6).after == [1, 2]
    assert "1: entries wait for it: 6; name them, too" in queue(["rm", "1"], monkeypatch, capsys)[2]
    assert queue(["rm", "1", "6"], monkeypatch, capsys)[0] == 0
    listed = json.loads(queue(["list", "--json"], monkeypatch, capsys)[1])
    assert [each["number"] for each in listed] == [2, 3, 4, 5]
    assert listed[0] | {"state": "waiting", "status": None, "run": "", "command": f"{command} {grid[1]}"} == listed[0]
    assert queue(["add", "tiny"], monkeypatch, capsys)[1].startswith("7: ")  # a number is not given twice
    assert queue(["retry", "1"], monkeypatch, capsys)[0] == 0
    assert entries.get(1).state == "waiting"


def test_help_is_shown(monkeypatch, capsys):
    for words in ("", "--help", "add --help", "run --help", "list --help", "retry --help", "rm -h", "submit --help"):
        status, out, _ = queue(words.split(), monkeypatch, capsys)
        assert status == (0 if words else 2)
        assert "usage: labbook queue" in out


def test_a_training_in_the_queue_ends_with_its_metric_and_its_run(forge, home, capsys):
    assert command_line.main(["add", "tiny", "--epochs", "1", *FAST]) == 0
    status, text = forge.run("core", "queue", "run", env={"LABBOOK_HOME": str(home)})
    assert status == 0, text
    (run,) = (home / "mlruns" / "runs").iterdir()
    accuracy = load(run).metrics["test/accuracy"]
    assert f"1 finished: test/accuracy {100 * accuracy:.2f} %, {run.name}, " in text
    assert command_line.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert run.name in shown
    assert "test accuracy" in entries.get(1).log.read_text()
    assert str(entries.get(1).log) in shown


@pytest.mark.slow
def test_a_training_killed_with_its_runner_continues_to_the_same_bits(forge, home, tmp_path):
    words = ["tiny", "--epochs", "4", "--checkpoint_every", "5", *FAST]
    assert forge.run("experiments.tiny", *words[1:], env={"LABBOOK_HOME": str(tmp_path / "alone")})[0] == 0
    assert command_line.main(["add", *words]) == 0
    runner = forge.start("core", "queue", "run", env={"LABBOOK_HOME": str(home)})
    wait_for_step(home, 60, seconds=200)
    pid = entries.process_of(1)
    runner.kill()
    os.kill(pid, signal.SIGKILL)
    runner.wait()
    assert any((only_run(home).folder / CHECKPOINTS).iterdir())
    status, text = forge.run("core", "queue", "run", env={"LABBOOK_HOME": str(home)}, timeout=300)
    assert status == 0, text
    assert "1 resumes: python -m experiments.tiny" in text
    run, alone = only_run(home), only_run(tmp_path / "alone")
    assert "resumes after step" in entries.get(1).log.read_text()
    assert (digest(run), points(run)) == (digest(alone), points(alone))


def test_two_entries_cannot_resume_one_run(monkeypatch):
    monkeypatch.setattr("core.cli.launch.checked", lambda name, words: ("resume", "tiny-20260101-000000-abcd"))
    entries.add([["tiny", "resume", "tiny-20260101-000000-abcd"]], "/", [], "")
    with pytest.raises(UserError, match="entry 1 resumes this run already"):
        command_line.parse(["tiny", "resume", "tiny-20260101-000000-abcd"])
