"""--processes N: one command, one Ctrl-C; the processes are real ones."""

import os
import signal
import threading
import time

import psutil
import pytest

from core.cli import processes
from core.cli.main import run
from core.cli.verbs import VERBS
from core.common.errors import UserError
from tests.support.processes import COMMON, PROGRAM, start, wait_for_step
from tests.support.runs import digest, only_run, points

WORDS = (PROGRAM, "--epochs", "4", "--batch_size", "60", "--checkpoint_every", "7", *COMMON)
TOGETHER = (*WORDS, "--processes", "2")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program that the processes run instead of labbook. Returns its module."""

    def write(text):
        (tmp_path / "told.py").write_text(f"import os, signal, sys, time\nrank = int(os.environ['RANK'])\n{text}")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return ["told"]

    return write


def test_the_first_process_prints_as_usual_and_others_are_named(program, capfd):
    words = program("print('result', flush=True) if not rank else print('odd', rank, file=sys.stderr)\n")
    assert processes.run_together(3, words) == 0
    output, errors = capfd.readouterr()
    assert output == "result\n"
    assert sorted(errors.splitlines()) == ["process 1: odd 1", "process 2: odd 2"]


@pytest.mark.parametrize(
    ("text", "status"),
    [("sys.exit(2)", 2), ("sys.exit(3 * rank)", 3), ("os.kill(os.getpid(), 9) if rank else sys.exit(1)", 1)],
    ids=["all", "other", "first"],
)
def test_the_status_is_that_of_a_single_process(text, status, program):
    assert processes.run_together(2, program(text)) == status


def test_a_process_that_hangs_after_the_failure_of_another_is_ended(program, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.2)
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60) if rank else sys.exit(1)"
    assert processes.run_together(2, program(text)) == 1


def test_each_process_receives_one_signal(program, tmp_path):
    text = (
        "got = []\n"
        "signal.signal(signal.SIGINT, lambda number, frame: got.append(number))\n"
        "open(os.path.join(os.path.dirname(__file__), f'ready{rank}'), 'w').close()\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "sys.exit(130 if got == [2] else 7)\n"
    )

    def interrupt():
        while len(list(tmp_path.glob("ready*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert processes.run_together(2, program(text)) == 130


def test_ctrl_c_saves_once_and_the_run_resumes(forge, home):
    process = forge.start(*TOGETHER)
    wait_for_step(home, 25)
    process.kill(signal.SIGINT)
    assert process.wait() == 130, process.text
    run = only_run(home)
    assert run.status == "KILLED"
    assert process.text.count("stopped and saved") == 1
    assert f"resume it with: python -m {PROGRAM} resume {run.id} --processes 2\n" in process.text
    assert "Traceback" not in process.text
    assert run.record["facts"]["hardware.processes"] == "2"
    for each in start(forge, PROGRAM, "resume"):
        assert each.wait() == 0, each.text
    assert only_run(home).status == "FINISHED"


@pytest.mark.slow
def test_a_resume_with_processes_is_to_the_same_bits(forge, home, tmp_path):
    for each in start(forge, *WORDS, LABBOOK_HOME=tmp_path):
        assert each.wait() == 0, each.text
    process = forge.start(*TOGETHER)
    wait_for_step(home, 25)
    process.kill(signal.SIGTERM)
    assert process.wait() == 143, process.text
    run = only_run(home)
    status, text = forge.run("core", "resume", run.id, "--processes=2")
    assert status == 0, text
    assert text.count("resumes after step") == 1
    assert digest(run) == digest(only_run(tmp_path))
    assert points(run) == points(only_run(tmp_path))


@pytest.mark.slow
def test_no_process_outlives_the_one_that_started_it(forge, home):
    process = forge.start(*TOGETHER)
    wait_for_step(home, 10)
    children = psutil.Process(process.pid).children()
    assert len(children) == 2
    process.kill(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert only_run(home).status == "KILLED"


@pytest.mark.slow
def test_the_death_of_a_process_ends_the_others(forge, home):
    process = forge.start(*TOGETHER)
    wait_for_step(home, 10)
    (other,) = [p for p in psutil.Process(process.pid).children() if p.environ()["RANK"] == "1"]
    other.kill()
    assert process.wait() == 1, process.text
    assert "another process of this run ended unexpectedly" in process.text
    assert f"resume {only_run(home).id} --processes 2" in process.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "tiny", "--processes", "0"], "--processes: should be a positive integer (got '0')"),
        (["resume", "tiny", "--processes"], "--processes: should be a positive integer"),
        (["train", "tiny", "--processes", "2", "--seeds", "2", "--together"], "leave out --processes"),
        (["search", "tiny", "--processes", "2"], "--processes: only for training, not for search"),
        (["launch", "--tasks_per_node", "2", "tiny", "--processes", "2"], "the job has 2 tasks already"),
    ],
)
def test_mistakes(words, message, home, capsys):
    if words[0] == "launch":
        pytest.importorskip("submitit")
    assert run(words[0], words[1:], VERBS) == 2
    assert message in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_it_does_not_start_processes_of_processes(home, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    for verb in ("train", "resume"):
        assert run(verb, ["tiny", "--processes", "2"], VERBS) == 2
        assert "torchrun, srun) started this process; leave out one of the two" in capsys.readouterr().err
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("LABBOOK_RENDEZVOUS", "tcp://127.0.0.1:1")
    with pytest.raises(UserError, match="meet by themselves"):
        processes.taken(["--processes=2"])
