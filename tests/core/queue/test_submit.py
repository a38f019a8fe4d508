"""labbook queue submit: entries as a job array, on submitit's local executor and on a Slurm of shell scripts."""

import os
import signal

import pytest

from core.cli import queue as command_line
from core.cluster.job import Launcher
from core.common.errors import UserError
from core.queue import entries, task
from tests.support.optional import library
from tests.support.queue_bench import until

library("submitit", extra="slurm")


def test_entries_run_as_elements_of_an_array_and_record_their_ends(bench, capsys):
    good, failing = bench.add("end", "fail")
    (later,) = bench.add("end", after=(good,))
    task.submit(Launcher(), ())
    assert f"{later} is not submitted: it waits for {good}" in capsys.readouterr().out
    until(lambda: bench.states() == {good: "finished", failing: "failed", later: "waiting"}, 120)
    assert entries.get(failing).status == 3
    assert entries.get(failing).why == "exit status 3: the reason of the failure"
    assert "the reason of the failure" in entries.get(failing).log.read_text()
    assert bench.starts(good)[0]["LABBOOK_INVOCATION"] == entries.get(good).invocation


@pytest.mark.slow
def test_a_canceled_element_saves_and_retry_resumes_its_entry(bench):
    (number,) = bench.add("wait")
    task.submit(Launcher(save_seconds=60), ())
    assert entries.get(number).state == "submitted"
    until(lambda: bench.starts(number), 120)
    assert bench.run() == (0, "")  # a runner leaves alone what is submitted
    os.kill(int(entries.get(number).job), signal.SIGTERM)
    until(lambda: bench.states() == {number: "stopped"})
    until(lambda: not entries.is_live(number))
    entries.update(number, state="waiting", job="")
    bench.go()
    assert bench.run()[0] == 0


def test_what_sbatch_is_asked_for(bench, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        (folder / name).write_text("#!/bin/bash\necho Submitted batch job 4711\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    bench.add("end", "end", "end")
    words = "submit 1 3 --at_once 1 --gpus_per_node 1 --hours 4 --partition gpu"
    assert command_line.main(words.split()) == 0
    (script,) = entries.folder().parent.glob("launches/queue-*/*_submission.sh")
    asked = {line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")}
    assert {"array=0-1%1", "gpus-per-node=1", "time=240", "partition=gpu", "requeue"} <= asked
    assert bench.states() == {1: "submitted", 2: "waiting", 3: "submitted"}
    assert [entries.get(number).job for number in (1, 3)] == ["4711_0", "4711_1"]
    assert "3 is job 4711_1 on slurm: python -m experiments.standin end" in capsys.readouterr().out
    with pytest.raises(UserError, match="3: it is submitted"):
        command_line.main(["submit", "3", "--cluster", "local"])
