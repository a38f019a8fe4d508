"""A task of a launched job: it runs the experiment's command line as a child process, which saves before a requeue."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from core.common import paths
from core.common.text import public

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ended(RuntimeError):
    """The child process failed; the job fails with this exception. status: exit status of the child."""

    def __init__(self, message: str, status: int = 1):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Task:
    """The callable that submitit pickles and runs in every task of every round.

    words: arguments of `python -m`, the same in every round.  cwd: working folder of the command.  launch: name of the
    job's folder.  seconds: time from the signal to the time limit.  gpus: CUDA_VISIBLE_DEVICES to set (None: to unset),
    or empty.  second: seconds within which the requeue signal may follow SIGTERM; some Slurm clusters send both.
    invocation: name of the job by which a run is found again; by default, that of the cluster's job.
    """

    words: tuple[str, ...]
    cwd: str
    launch: str
    seconds: float
    gpus: Mapping[str, str | None] = field(default_factory=dict)
    second: float = 10
    invocation: str = ""

    @property
    def command(self) -> str:
        """The command line, for messages, without passwords in URIs."""
        return shlex.join(["python", "-m", *(public(word, whole=True) for word in self.words)])

    def __call__(self) -> None:
        """Run the child process to its end. Raises Ended if it fails, SystemExit if this task received a signal."""
        from submitit import JobEnvironment

        job = JobEnvironment()
        with _noted(getattr(signal, f"SIG{job.USR_SIG}")) as notes:
            with notes.kept_from_children():
                child = subprocess.Popen(
                    [sys.executable, "-u", "-m", *self.words],
                    cwd=self.cwd,
                    env=self._environment(job),
                    # Ctrl-C in a terminal must not reach the child, which gets a single SIGTERM from this task
                    start_new_session=True,
                )
            status = self._until_it_ends(child, notes)
            if status == 0:
                return
            if not notes.signaled:
                raise Ended(f"{self.command} ended with status {status}", status)
            self._leave(job, notes)

    def checkpoint(self) -> Any:
        """The task of the next round, as submitit requires: the same one. The child has saved by then, see `_leave`."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _until_it_ends(self, child: subprocess.Popen[bytes], notes: _Notes) -> int:
        """The exit status of the child. It receives one SIGTERM: a second one makes labbook quit without saving."""
        deadline = None
        while (status := child.poll()) is None:
            if notes.signaled and deadline is None:
                child.terminate()
                deadline = time.monotonic() + 0.8 * self.seconds
            elif deadline and time.monotonic() > deadline:
                # the next round can resume from the last checkpoint; without a kill, there would be no next round
                print(
                    f"{self.command} did not exit within {0.8 * self.seconds:g} s of SIGTERM and was killed", flush=True
                )
                child.kill()
            time.sleep(0.1)
        return status

    def _leave(self, job: Any, notes: _Notes) -> None:
        """Pass the signal on to submitit after the child has saved: on rank 0, submitit requeues the job and exits."""
        end = time.monotonic() + (self.second if job.cluster == "slurm" else 0)
        while not notes.requeue and time.monotonic() < end:
            time.sleep(0.1)
        if notes.requeue:
            notes.submitit(notes.number, None)
        # Other ranks exit with 0, because another status would end rank 0 before it has requeued the job. They do not
        # return, because submitit would then consider the job done.
        sys.exit(128 + signal.SIGTERM if job.global_rank == 0 else 0)

    def _environment(self, job: Any) -> dict[str, str]:
        """The environment of the child, without ranks if the job has a single task."""
        from submitit.helpers import TorchDistributedEnvironment

        found: dict[str, str | None] = {name: value for name, value in os.environ.items() if name not in RANKS}
        found |= self.gpus
        found["PYTHONPATH"] = paths.python_path()
        # process ids are reused after a reboot or in another container; the name of the launch is unique
        where = f" {self.launch}" if job.cluster == "local" else ""
        found["LABBOOK_INVOCATION"] = self.invocation or f"{job.cluster} {job.job_id}{where}"
        if job.num_tasks > 1:
            ranks = TorchDistributedEnvironment()
            found |= {
                "RANK": str(ranks.rank),
                "WORLD_SIZE": str(ranks.world_size),
                "LOCAL_RANK": str(ranks.local_rank),
                "LOCAL_WORLD_SIZE": str(ranks.local_world_size),
                # a host cannot always resolve its own name
                "MASTER_ADDR": ranks.master_addr if job.num_nodes > 1 else "127.0.0.1",
                "MASTER_PORT": str(ranks.master_port),
            }
        return {name: value for name, value in found.items() if value is not None}


class _Notes:
    """Received signals, recorded for the waiting loop. The handler does nothing else: it may interrupt Popen.poll,
    which holds a lock, so that waiting inside the handler would deadlock."""

    def __init__(self, number: int):
        self.number = number  # of the signal that submitit uses for a preemption or the time limit
        self.submitit: Any = signal.getsignal(number)  # submitit's own handler
        self.requeue = self.signaled = False

    def note(self, number: int, frame: FrameType | None) -> None:
        self.signaled = True
        self.requeue = self.requeue or number == self.number

    @contextmanager
    def kept_from_children(self) -> Iterator[None]:
        """Block the signal for child processes started in this context. Some clusters send it to every process, which
        would end the child; the child inherits the mask. Signals to this process are delivered on exit."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {self.number})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.number})


@contextmanager
def _noted(number: int) -> Iterator[_Notes]:
    """Record SIGTERM and SIGINT, too: a canceled job, or a preemption without submitit's signal."""
    notes = _Notes(number)
    before = {n: signal.signal(n, notes.note) for n in (number, signal.SIGTERM, signal.SIGINT)}
    try:
        yield notes
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
