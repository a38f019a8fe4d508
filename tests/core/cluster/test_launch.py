"""labbook launch: jobs as real processes, on submitit's local executor and on a Slurm of three shell scripts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from core.cli import main as labbook
from core.cli.launch import USAGE, parse
from core.cli.launch import main as launched
from core.cluster import submit as submission
from core.cluster.job import Launcher
from core.cluster.submit import executor, follow, submit
from core.cluster.task import RANKS, Task
from core.common import paths
from core.common.errors import UserError
from core.record import journal
from core.runs.trained import Run
from core.training.checkpoint import CHECKPOINTS
from tests.support.optional import library

FailedJobError = library("submitit.core.utils", extra="slurm").FailedJobError

# a program that records how it was started, and after SIGTERM saves, leaves with 143 and ends the next time
STANDIN = """
import json, os, signal, sys, time
from pathlib import Path

signals, rank, (mode,) = [], os.environ.get("RANK", "0"), sys.argv[1:]
signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "deaf" else lambda number, frame: signals.append(number))
before = sorted(path.name for path in Path().glob("saved-*"))
results = [path.name for path in Path(os.environ["SUBMITIT_FOLDER"]).glob("*result.pkl")]
with open(f"starts-{rank}", "a") as file:
    file.write(json.dumps({"environment": dict(os.environ), "saved": before, "results": results}) + "\\n")
print("started in round", len(Path(f"starts-{rank}").read_text().splitlines()), flush=True)
if mode == "fail":
    time.sleep(0.7)
    sys.exit(3)
if mode == "end" or len(Path(f"starts-{rank}").read_text().splitlines()) > 1:
    sys.exit(0)
end = time.monotonic() + 60
while not signals and time.monotonic() < end:
    time.sleep(0.02)
time.sleep(1.0 if rank == "0" else 0.2)
Path(f"saved-{rank}").write_text(str(len(signals)))
sys.exit(143)
"""


@dataclass
class Standin:
    """Where the program runs and leaves its traces."""

    folder: Path

    def task(self, mode="save", **changes):
        return Task(**{"words": ("standin", mode), "cwd": str(self.folder), "launch": "name", "seconds": 60} | changes)

    def starts(self, rank=0):
        path = self.folder / f"starts-{rank}"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def start(self, task, tasks=1):
        """submitit's job, once all of its children have begun."""
        launcher = Launcher(tasks_per_node=tasks, save_seconds=60)
        with chdir(paths.ROOT):
            job = executor(launcher, paths.launches()).submit(task)
        until(lambda: all(self.starts(rank) for rank in range(tasks)))
        return job


@pytest.fixture
def standin(tmp_path):
    (tmp_path / "standin.py").write_text(STANDIN)
    return Standin(tmp_path)


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def preempt(parent):
    """The signal of a preemption or of the time limit, as a cluster sends it that tracks whole trees of processes."""
    for task in psutil.Process(int(parent)).children():
        for process in [*task.children(recursive=True), task]:
            process.send_signal(signal.SIGUSR2)


# the real thing


@pytest.fixture(scope="module")
def preempted(forge, tmp_path_factory):
    """tiny, preempted once: home, status, text, and how the child was started in each round."""
    home = tmp_path_factory.mktemp("preempted")
    words = ["tiny", *"--epochs 6 --batch_size 8 --limit 320 --mlflow false --threads 1".split()]
    process = forge.start("core", "launch", *words, env={"LABBOOK_HOME": str(home)})
    runs = home / "mlruns" / "runs"
    until(lambda: any(journal.history(run).get("step/loss") for run in runs.glob("*")) if runs.exists() else False, 120)
    number = re.search(r"job (\d+)", process.text)[1]
    rounds = [_child(number)]
    (run,) = runs.iterdir()
    preempt(number)
    until(lambda: _child(number) not in (None, rounds[0]), 120)
    rounds.append(_child(number))
    return SimpleNamespace(home=home, status=process.wait(200), text=process.text, rounds=rounds, run=Run(run))


def _child(number):
    """(process id, words, LABBOOK_INVOCATION) of the child that trains, or None while there is none."""
    try:
        ((task),) = psutil.Process(int(number)).children()
        (child,) = task.children()
        words = child.cmdline()
        return (child.pid, words, child.environ()["LABBOOK_INVOCATION"]) if "experiments.tiny" in words else None
    except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError, ValueError):
        return None


def test_a_job_trains_and_tells_where(preempted):
    assert preempted.status == 0, preempted.text
    number = re.search(r"job (\d+) on local: python -m experiments\.tiny --epochs 6", preempted.text)[1]
    (launch,) = (preempted.home / "mlruns" / "launches").iterdir()
    assert f"logs    {launch}" in preempted.text
    assert f"-F {launch / number}_0_log.out" in preempted.text
    assert f"cancel  kill {number}" in preempted.text
    finished = [run for run in preempted.run.folder.parent.iterdir() if Run(run).status == "FINISHED"]
    assert [f"record: {run}" for run in finished] == re.findall(r"record: \S+", preempted.text)


def test_a_preempted_job_saves_and_the_same_command_starts_again(preempted):
    (pid, words, invocation), (other, *again) = preempted.rounds
    assert other != pid
    assert again == [words, invocation]
    assert re.fullmatch(r"local \d+ tiny-[\w-]+", invocation)
    saved = re.search(r"SIGTERM: (\S+) stopped and saved", preempted.text)
    assert saved[1] == preempted.run.id
    assert any((preempted.run.folder / CHECKPOINTS).iterdir())
    assert preempted.text.index("stopped and saved") < preempted.text.index("Requeued job")


def test_a_preempted_job_ends_in_one_finished_run(preempted):
    (folder,) = (preempted.home / "mlruns" / "runs").iterdir()
    assert Run(folder).status == "FINISHED"
    assert len(journal.history(folder)["val/loss"]) == 6


# how tasks begin and end


def test_two_tasks_get_their_ranks_save_once_and_go_on_together(standin):
    job = standin.start(standin.task(), tasks=2)
    preempt(job.job_id)
    assert job.exception() is None, job.stdout()
    for rank in (0, 1):
        first, second = standin.starts(rank)
        expected = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        assert expected.items() <= first["environment"].items()
        assert first["environment"]["MASTER_ADDR"] == "127.0.0.1"
        for name in (*RANKS, "LABBOOK_INVOCATION"):
            assert second["environment"][name] == first["environment"][name]
        assert second["saved"] == ["saved-0", "saved-1"]
        assert f"{job.job_id}_{rank}_result.pkl" not in second["results"]  # the first round has no result
        assert (standin.folder / f"saved-{rank}").read_text() == "1"


def test_one_task_has_no_ranks_and_sees_what_it_is_given(standin, monkeypatch):
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("LABBOOK_INVOCATION", "older")
    job = standin.start(standin.task("end", gpus={"CUDA_VISIBLE_DEVICES": "5"}))
    assert job.exception() is None
    (start,) = standin.starts()
    assert not set(RANKS) & set(start["environment"])
    assert start["environment"]["LABBOOK_INVOCATION"] == f"local {job.job_id} name"
    assert start["environment"]["CUDA_VISIBLE_DEVICES"] == "5"
    assert start["environment"]["PYTHONPATH"].startswith(str(paths.ROOT))


def test_a_failed_child_fails_the_job_and_is_not_run_again(standin):
    job = standin.start(standin.task("fail"))
    error = job.exception()
    assert isinstance(error, FailedJobError)
    assert "python -m standin fail ended with status 3" in str(error)
    assert len(standin.starts()) == 1


def test_a_child_that_does_not_save_in_time_is_killed_and_runs_again(standin):
    job = standin.start(standin.task("deaf", seconds=1))
    preempt(job.job_id)
    until(job.done, seconds=30)
    assert job.exception() is None, job.stdout()
    assert len(standin.starts()) == 2
    assert "did not exit within 0.8 s" in job.stdout()


def test_a_cancelled_job_saves_and_is_not_run_again(standin):
    job = standin.start(standin.task())
    os.kill(int(job.job_id), signal.SIGTERM)
    until(job.done)
    assert (standin.folder / "saved-0").read_text() == "1"
    assert len(standin.starts()) == 1
    assert not job.paths.result_pickle.exists()


def test_ctrl_c_while_waiting_stops_the_job(standin, capsys):
    job = standin.start(standin.task())

    def interrupt():
        del job.done
        raise KeyboardInterrupt

    job.done = interrupt
    assert follow(job, Launcher(save_seconds=60)) == 130
    assert (standin.folder / "saved-0").read_text() == "1"
    assert "saves a checkpoint and stops" in capsys.readouterr().out


def test_waiting_shows_the_whole_log_and_ends_with_the_status(standin, capsys):
    assert follow(standin.start(standin.task("end")), Launcher()) == 0
    (standin.folder / "starts-0").unlink()
    assert follow(standin.start(standin.task("fail")), Launcher()) == 1
    shown = capsys.readouterr()
    assert shown.out.count("started in round 1") == 2  # of each job once
    assert "ended with status 3" in shown.out
    assert "failed; its logs are in" in shown.err


def test_a_local_job_leaves_the_callers_streams_alone(tmp_path, capfd):
    """What the controller inherits: a pipe that it kept would keep `labbook launch | cat` waiting for the job."""
    with submission._apart(tmp_path / "log"):
        subprocess.run([sys.executable, "-c", "import sys; print('out', sys.stdin.read())"], check=True)
    print("after", flush=True)
    assert (tmp_path / "log").read_text() == "out \n"
    assert capfd.readouterr().out == "after\n"


@pytest.mark.parametrize(
    ("seen", "asked", "given"),
    [(None, None, None), ("2,3", None, "2,3"), ("2,3", 1, "2"), (None, 2, "0,1"), (None, 0, "")],
    ids=["all", "as_here", "first_of_these", "first", "none"],
)
def test_the_gpus_of_a_local_job(seen, asked, given, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert submission.visible(Launcher(gpus_per_node=asked)) == {"CUDA_VISIBLE_DEVICES": given}


# Slurm

SBATCH = '#!/bin/bash\npwd > "$0.calls"; env >> "$0.calls"; echo Submitted batch job 4711\n'
SCONTROL = '#!/bin/bash\nls saved-* | tr "\\n" " " > requeued\necho "$@" >> requeued\n'
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do [[ $1 == --output ]] && shift; shift; done
for rank in 0 1; do SLURM_PROCID=$rank SLURM_NODEID=$rank SLURM_LOCALID=0 "$@" > out-$rank 2>&1 & done
wait %1; echo $? > status-0; wait %2; echo $? > status-1
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """sbatch, srun and scontrol as far as submitit needs them: srun starts two tasks, as on two nodes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_what_sbatch_is_asked_for(slurm, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "64")
    monkeypatch.setenv("SLURM_CONF", "there")
    words = "--cluster slurm --nodes 2 --gpus_per_node 4 --cpus_per_task 8 --hours 4 --partition gpu --mem_gb 64"
    more = ["--sbatch", '["reservation=a,b", "exclusive"]', "--setup", "module load cuda"]
    launcher, name, own = parse([*words.split(), *more, "tiny", "--epochs", "3"])
    assert not launcher.waits
    job = submit(launcher, name, own)
    lines = job.paths.submission_file.read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {"nodes=2", "ntasks-per-node=4", "gpus-per-node=4", "cpus-per-task=8", "time=240", "partition=gpu"} <= asked
    assert {"signal=USR2@120", "requeue", "open-mode=append", "mem=65536M", "reservation=a,b", "exclusive"} <= asked
    assert not [line for line in asked if line.startswith("wckey") or "None" in line]
    assert "module load cuda" in lines
    command = next(line for line in lines if line.startswith("srun"))
    assert "--kill-on-bad-exit=1 --cpus-per-task=8" in command
    task = job.submission().function
    assert (task.words, task.cwd) == (("experiments.tiny", "--epochs", "3"), str(tmp_path))
    output = capsys.readouterr().out
    assert "job 4711 on slurm: python -m experiments.tiny --epochs 3, 8 tasks" in output
    assert "cancel  scancel 4711" in output
    where, *environment = (slurm / "sbatch.calls").read_text().splitlines()
    assert where == str(paths.ROOT)  # where submitit's own process finds core
    assert "SLURM_NTASKS=64" not in environment
    assert "SLURM_CONF=there" in environment
    assert os.environ["SLURM_NTASKS"] == "64"


@pytest.mark.parametrize("words", [["--notify", "https://host/MARKER"], ["--notify=https://host/MARKER"]])
def test_a_job_gets_the_url_of_an_alert_in_its_environment_and_not_in_its_files(words, slurm, monkeypatch, capsys):
    monkeypatch.setenv("LABBOOK_NOTIFY", "https://another/ADDRESS")
    assert launched(["--cluster", "slurm", "tiny", *words, "--epochs", "3"]) == 0
    assert "LABBOOK_NOTIFY=https://host/MARKER" in (slurm / "sbatch.calls").read_text().splitlines()
    (folder,) = paths.launches().iterdir()
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert any(b"--epochs" in content for content in files)  # as submitit pickled the task
    assert not any(b"MARKER" in content or b"--notify" in content for content in files)
    assert "python -m experiments.tiny --epochs 3, 1 task" in capsys.readouterr().out
    with pytest.raises(UserError, match="--notify: with --sbatch export=NONE, the job does not get it"):
        launched(["--cluster", "slurm", "--sbatch", "export=NONE", "tiny", *words])


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGUSR2,), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGUSR2)],
    ids=["requeue", "cancel", "both"],
)
def test_tasks_of_slurm_save_before_rank_0_requeues(numbers, slurm, standin, home):
    requeued, second = signal.SIGUSR2 in numbers, 30 if len(numbers) > 1 else 0.5
    job = executor(Launcher(cluster="slurm", nodes=2, save_seconds=60), home).submit(standin.task(second=second))
    env = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[07-08]"}
    env |= {"PYTHONPATH": str(paths.ROOT)}
    script = subprocess.Popen(["bash", job.paths.submission_file], env={**os.environ, **env}, cwd=standin.folder)
    until(lambda: standin.starts(0) and standin.starts(1))
    for number in numbers:
        for task in psutil.Process(script.pid).children(recursive=True):
            if task.cmdline()[1:4] == ["-u", "-m", "submitit.core._submit"]:
                task.send_signal(number)
        until(lambda: (standin.folder / "saved-0").exists())  # and the child is about to end, or has
        time.sleep(0.2)
    script.wait(60)
    given = {name: standin.starts(1)[0]["environment"][name] for name in (*RANKS, "LABBOOK_INVOCATION")}
    assert given.pop("MASTER_PORT").isdecimal()
    assert given == {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "node07",
        "LABBOOK_INVOCATION": "slurm 4711",
    }
    assert [(standin.folder / f"saved-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
    assert not list(home.glob("*result.pkl"))
    assert (standin.folder / "status-1").read_text() == "0\n"  # another status would end rank 0, too
    if requeued:
        assert (standin.folder / "requeued").read_text().endswith("requeue 4711\n")
        assert "saved-0" in (standin.folder / "requeued").read_text()
    else:
        assert not (standin.folder / "requeued").exists()
        assert (standin.folder / "status-0").read_text() == "143\n"


# mistakes


def launch(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["labbook", "launch", *words])
    monkeypatch.setattr(submission, "submit", lambda *given: pytest.fail("it was submitted"))
    with pytest.raises(SystemExit) as left:
        labbook.labbook()
    return left.value.code, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ("--nodess 2 tiny", ["--nodess: unknown option; did you mean --nodes or"]),
        ("--nodess tiny --epochs x", ["--nodess: unknown option", "--epochs: should be a valid integer"]),
        (
            "--nodes tiny",
            ["--nodes: should be a valid integer", "EXPERIMENT is missing; choose one of"],
        ),
        ("--nodes 2 tiny", ["--nodes 2: --cluster local has one node"]),
        ("tin", ["tin: unknown experiment; did you mean tiny"]),
        ("tiny --optimizer.lrr 1", ["did you mean --optimizer.lr"]),
        ("tiny trian", ["trian"]),
        ("tiny trian --epochs 1", ["trian: unknown verb; did you mean train?"]),
        ("tiny resume nothing", ["nothing: run not found"]),
        ("tiny resume", ["no interrupted run of tiny"]),
        ("tiny --nodes 2", ["--nodes: is an option of the job; write it before the name tiny"]),
        ("--epochs 2 tiny", ["--epochs: is an option of the experiment; write it after the name tiny"]),
        ("--gpus_per_node 2 --tasks_per_node 3 tiny", ["each task uses a GPU, but --gpus_per_node is 2"]),
        ("--partition gpu tiny", ["--partition: this option requires --cluster slurm"]),
        ("--hours 0.01 tiny", ["--save_seconds 120: the time limit is only 0.01 hours"]),
        ("--cluster slurm tiny", ["sbatch, srun, scontrol not found"]),
        ("--wait --wait tiny", ["--wait: given twice"]),
        (
            "--nodess 2 --hours -1 --partition gpu tiny --epochs x --devise cpu",
            ["did you mean --nodes or", "--hours: ", "--partition: ", "--epochs: ", "--device?"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_reported_at_once_and_nothing_is_submitted(words, messages, monkeypatch, capsys):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    status, shown = launch(words.split(), monkeypatch, capsys)
    assert status == 2
    for message in messages:
        assert message in shown.err
    assert shown.err.count("\n") == 1 + len(messages)
    assert "Traceback" not in shown.err


def test_without_submitit_the_way_to_it_is_reported(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    status, shown = launch(["tiny"], monkeypatch, capsys)
    assert status == 2
    assert 'pip install -e ".[slurm]"' in shown.err
    assert shown.err.count("\n") == 2


def test_help_lists_every_option_with_its_default(monkeypatch, capsys):
    status, shown = launch(["--help"], monkeypatch, capsys)
    assert status == 0
    for name in Launcher.model_fields:
        assert f"  --{name} " in shown.out
    assert "--hours 24.0" in shown.out


def test_the_commands_that_are_reported_are_accepted(slurm, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    text = USAGE + "\n".join(re.findall(r"```bash\n(.*?)```", (paths.ROOT / "README.md").read_text(), re.DOTALL))
    commands = re.findall(r"^ *labbook launch ((?!--help)[\w-].*?)(?:  .*)?$", text, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        if "RUN" not in command:
            parse(command.split())


def test_a_decision_may_be_a_job(slurm):
    words = ("--variant", "mlp", "--seeds", "decided", "--budget", "8")
    assert parse(["tiny", *words])[2] == words
    with pytest.raises(UserError, match="mlpp: unknown variant"):
        parse(["tiny", "--variant", "mlp,mlpp", "--seeds", "decided"])


def test_the_run_to_resume_is_named_once(home):
    for name, status in (("tiny-1", "KILLED"), ("tiny-2", "FINISHED")):
        folder = paths.runs() / name
        (folder / "artifacts").mkdir(parents=True)
        record = {"labbook": 2, "experiment": "tiny"}
        (folder / "artifacts" / "record.json").write_text(json.dumps(record))
        journal.Journal(folder).close(status)
    assert parse(["tiny", "resume"])[2] == ("resume", "tiny-1")
    assert parse(["tiny", "resume", "tiny-1"])[2] == ("resume", "tiny-1")
    with pytest.raises(UserError, match="is FINISHED"):
        parse(["tiny", "resume", "tiny-2"])
