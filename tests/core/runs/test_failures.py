"""What the machine does to a run: full disks, processes that die or hang, no memory. It says so, and goes on later."""

import errno
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from core.common.errors import OutOfMemory, Unfinished
from core.launch import Launch
from core.methods import Method
from core.record import journal
from core.runs.resume import resume
from core.runs.train import train
from core.runs.trained import load
from core.training import checkpoint
from experiments.tiny import EXPERIMENT
from tests.support.forge import Cold
from tests.support.runs import digest, only_run, points

PROGRAM = "experiments.tiny"
LOADED = (PROGRAM, "--epochs", "3", "--mlflow", "false", "--threads", "1", "--workers", "1", "--limit", "640",
          "--checkpoint_every", "5", "--worker_timeout", "2")  # fmt: skip
SHORT = EXPERIMENT.but({"epochs": 2, "limit": 640})
QUIET = Launch(mlflow=False, threads=1, checkpoint_every="3")


@pytest.fixture(scope="module")
def undisturbed(forge, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    status, text = forge.run(*LOADED, env={"LABBOOK_HOME": str(home)})
    assert status == 0, text
    return only_run(home)


def loader_of(process, home) -> int:
    """The process that loads images, once the run has come to its second epoch."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if list((home / "mlruns" / "runs").glob("*")) and only_run(home).history.get("val/loss"):
            pid = process.child.pid
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        time.sleep(0.01)
    raise AssertionError(process.text)


@pytest.mark.parametrize(
    ("number", "ahead"),
    [
        (signal.SIGKILL, 0.0),
        pytest.param(signal.SIGSTOP, 0.0, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 0.5, marks=pytest.mark.slow),
    ],
    ids=["dead", "hung", "hung_with_a_batch_announced"],
)
def test_a_lost_loader_worker_is_named_with_its_batch_and_the_run_resumes(number, ahead, undisturbed, forge, home):
    # as a person starts it: at its end a Python process waits for its workers, and a stopped one takes no other signal
    cold = Cold()
    process = cold.start(*LOADED)
    loader = loader_of(process, home)
    process.kill(signal.SIGSTOP)  # the loader works on meanwhile, until as much is announced as may be
    time.sleep(ahead)
    os.kill(loader, number)
    process.kill(signal.SIGCONT)
    assert process.wait(60) == 1, process.text
    run = only_run(home)
    assert run.status == "KILLED", process.text
    assert re.search(r"stopped: (epoch 2, batch|step) \d+: DataLoader", process.text), process.text
    assert "--worker_timeout" in process.text
    assert f"resume it with: python -m {PROGRAM} resume {run.id}" in process.text
    assert "Traceback" not in process.text
    status, text = forge.run(PROGRAM, "resume")
    assert status == 0, text
    assert digest(run) == digest(undisturbed)
    assert points(run) == points(undisturbed)


def test_a_full_disk_ends_a_run_that_resumes_once_there_is_room(forge, home, tmp_path):
    """A real one, of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this needs the right to mount a small disk: {mounted.stderr.decode().strip()}")
    words = (PROGRAM, "--epochs", "3", "--mlflow", "false", "--threads", "1", "--checkpoint_every", "5")
    try:
        filler = disk / "filler"
        process = forge.start(*words, env={"LABBOOK_HOME": str(disk)})
        end = time.monotonic() + 60
        while not list(disk.glob("mlruns/runs/*/checkpoints/*.checkpoint")) and time.monotonic() < end:
            time.sleep(0.005)
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while stream.write(bytes(4096)):
                pass
        assert process.wait() == 1, process.text
        assert "No space left on device" in process.text
        assert "Traceback" not in process.text
        run = only_run(disk)
        assert f"resume {run.id}" in process.text
        assert checkpoint.latest(run.folder / "checkpoints")[0] is not None
        filler.unlink()
        status, text = forge.run(PROGRAM, "resume", env={"LABBOOK_HOME": str(disk)})
        assert status == 0, text
        status, text = forge.run(*words, env={"LABBOOK_HOME": str(home)})
        assert digest(run) == digest(only_run(home))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(home, monkeypatch):
    whole = train(SHORT, QUIET)
    fsync, calls = os.fsync, []

    def full(file):
        calls.extend(["checkpoint"] * os.readlink(f"/proc/self/fd/{file}").endswith(".checkpoint.part"))
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="No space left"):
        train(SHORT, QUIET)
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    stopped = next(load(path.name) for path in (home / "mlruns" / "runs").iterdir() if path != whole.folder)
    assert stopped.status not in ("FINISHED", "FAILED")
    assert digest(resume(stopped)) == digest(whole)


class Greedy(Method):
    """Asks for more memory than there is."""

    kind: str = "cuda"

    def step(self, model, loss, batch, clock):
        if clock.step < 2:
            return SHORT.method.step(model, loss, batch, clock)
        if self.kind == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return torch.empty(2**50)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_out_of_memory_says_what_to_lower(kind, home):
    with pytest.raises(OutOfMemory, match="micro-batches of 2 images cannot be divided further: choose") as info:
        train(SHORT.but({"method": Greedy(kind=kind)}), QUIET)
    assert ("expandable_segments" in str(info.value)) == (kind == "cuda")
    run = only_run(home)
    assert run.status == "FAILED"
    assert "OutOfMemory" in (run.folder / journal.FILE).read_text()


def test_a_failed_run_can_be_resumed_by_name_after_its_bug_is_mended(home, monkeypatch):
    whole = train(SHORT, QUIET)
    from core.training import replicated as module

    original = module.serialized

    def broken(model):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(module, "serialized", broken)
    with pytest.raises(ZeroDivisionError):
        train(SHORT, QUIET)
    monkeypatch.setattr(module, "serialized", original)
    failed = next(load(path.name) for path in (home / "mlruns" / "runs").iterdir() if path != whole.folder)
    assert failed.status == "FAILED"
    assert digest(resume(failed)) == digest(whole)


def test_the_message_about_a_failing_disk_names_the_run():
    from core.runs.failures import explained

    explanation = explained(OSError(errno.EIO, "Input/output error", "/x/y"), "run-1", 3)
    assert isinstance(explanation, Unfinished)
    assert (explanation.run, str(explanation)) == ("run-1", "Input/output error: /x/y")
    bug = FileNotFoundError(errno.ENOENT, "No such file", "mine.txt")
    assert explained(bug, "run-1", 3) is bug
