"""A task of a launched job: it runs the experiment's command line as a child, and has it save before a requeue."""

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

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ended(RuntimeError):
    """The child ended badly; the job fails with this."""


@dataclass(frozen=True)
class Task:
    """What submitit pickles, and calls in every task of every round.

    words: of `python -m`, the same in every round.  cwd: where they were typed.  launch: the name of the job's folder.
    seconds: from the signal to the time limit.  gpus: CUDA_VISIBLE_DEVICES to set (None: to unset), or nothing.
    second: seconds in which the signal to requeue may follow SIGTERM, as some clusters of Slurm send them.
    """

    words: tuple[str, ...]
    cwd: str
    launch: str
    seconds: float
    gpus: Mapping[str, str | None] = field(default_factory=dict)
    second: float = 10

    @property
    def command(self) -> str:
        """The command line, for people."""
        return shlex.join(["python", "-m", *self.words])

    def __call__(self) -> None:
        """Run the child to its end. Raises Ended where that is a failure; leaves by SystemExit where it was told to."""
        from submitit import JobEnvironment

        job = JobEnvironment()
        with _noted(getattr(signal, f"SIG{job.USR_SIG}")) as notes:
            with notes.kept_from_children():
                child = subprocess.Popen(
                    [sys.executable, "-u", "-m", *self.words],
                    cwd=self.cwd,
                    env=self._environment(job),
                    # Ctrl-C in a terminal reaches this task, too, whose one SIGTERM the child is to get and no more
                    start_new_session=True,
                )
            status = self._until_it_ends(child, notes)
            if status == 0:
                return
            if not notes.told:
                raise Ended(f"{self.command} ended with status {status}")
            self._leave(job, notes)

    def checkpoint(self) -> Any:
        """submitit asks for what the next round is to run: the same. By then the child has saved (see `_leave`)."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _until_it_ends(self, child: subprocess.Popen[bytes], notes: _Notes) -> int:
        """The child's exit status. It gets one SIGTERM, since labbook takes a second as an order to drop everything."""
        deadline = None
        while (status := child.poll()) is None:
            if notes.told and deadline is None:
                child.terminate()
                deadline = time.monotonic() + 0.8 * self.seconds
            elif deadline and time.monotonic() > deadline:
                # better the last checkpoint in the next round than no next round
                print(f"{self.command} did not end within {0.8 * self.seconds:g} s of SIGTERM: killed", flush=True)
                child.kill()
            time.sleep(0.1)
        return status

    def _leave(self, job: Any, notes: _Notes) -> None:
        """The child has saved, and only now submitit hears of its signal: on rank 0 it requeues the job and exits."""
        end = time.monotonic() + (self.second if job.cluster == "slurm" else 0)
        while not notes.requeue and time.monotonic() < end:
            time.sleep(0.1)
        if notes.requeue:
            notes.submitit(notes.number, None)
        # other ranks leave with 0, because another status would end rank 0 before it has requeued; and none of them
        # by returning, because that would be a result, and the job taken to be done
        sys.exit(128 + signal.SIGTERM if job.global_rank == 0 else 0)

    def _environment(self, job: Any) -> dict[str, str]:
        """The child's environment. Without ranks where there is one task only."""
        from submitit.helpers import TorchDistributedEnvironment

        found: dict[str, str | None] = {name: value for name, value in os.environ.items() if name not in RANKS}
        found |= self.gpus
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(paths.ROOT), os.environ.get("PYTHONPATH"))))
        # a process id comes again, after a reboot or in the next container; with the launch's name it does not
        where = f" {self.launch}" if job.cluster == "local" else ""
        found["LABBOOK_INVOCATION"] = f"{job.cluster} {job.job_id}{where}"
        if job.num_tasks > 1:
            ranks = TorchDistributedEnvironment()
            found |= {
                "RANK": str(ranks.rank),
                "WORLD_SIZE": str(ranks.world_size),
                "LOCAL_RANK": str(ranks.local_rank),
                "LOCAL_WORLD_SIZE": str(ranks.local_world_size),
                # a host's own name is not always one that it can resolve
                "MASTER_ADDR": ranks.master_addr if job.num_nodes > 1 else "127.0.0.1",
                "MASTER_PORT": str(ranks.master_port),
            }
        return {name: value for name, value in found.items() if value is not None}


class _Notes:
    """Signals as notes for the loop that waits. Nothing is done in a handler, which may have interrupted Popen.poll
    while that holds its lock, so that no wait in there would ever end."""

    def __init__(self, number: int):
        self.number = number  # of the signal by which submitit tells of a preemption or the time limit
        self.submitit: Any = signal.getsignal(number)  # submitit's own handler
        self.requeue = self.told = False

    def note(self, number: int, frame: FrameType | None) -> None:
        self.told = True
        self.requeue = self.requeue or number == self.number

    @contextmanager
    def kept_from_children(self) -> Iterator[None]:
        """A child started in here never gets the signal, which some clusters send to every process and which would
        end it; it keeps the mask. What comes to this process meanwhile is delivered afterwards."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {self.number})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {self.number})


@contextmanager
def _noted(number: int) -> Iterator[_Notes]:
    """SIGTERM and SIGINT are noted, too: a canceled job, or a preemption without submitit's signal."""
    notes = _Notes(number)
    before = {n: signal.signal(n, notes.note) for n in (number, signal.SIGTERM, signal.SIGINT)}
    try:
        yield notes
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
