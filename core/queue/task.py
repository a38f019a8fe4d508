"""Entries as a job array of Slurm, through submitit: one element of the array for each entry."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from core.cluster.job import Launcher
from core.cluster.submit import hand_over, new_folder, visible
from core.cluster.task import Ended, Task
from core.common import paths
from core.common.errors import UserError
from core.common.terminal import tell
from core.queue import entries, lifecycle, outcome
from core.queue.entries import Entry
from core.queue.lifecycle import Changed


@dataclass(frozen=True)
class QueueTask:
    """The callable that submitit pickles and runs in each element of the array, with the number of an entry.

    launch: name of the job's folder.  seconds: time from the signal to the time limit.  gpus: as in `Task`.
    """

    launch: str
    seconds: float
    changed: Changed = "hold"
    gpus: Mapping[str, str | None] = field(default_factory=dict)
    second: float = 10

    def __call__(self, number: int) -> None:
        """Run an entry to its end. Raises Ended if it fails or must not run, SystemExit after a signal."""
        from submitit import JobEnvironment

        job = JobEnvironment()
        if job.global_rank:
            return self._task(entries.get(number))()
        with ExitStack() as held:
            entry = self._begun(number, job.job_id, held)
            if entry.state != "running":
                tell(outcome.ended(entry))
                return
            try:
                self._task(entry)()
            except Ended as error:
                tell(outcome.ended(lifecycle.end(entry, error.status)))
                raise
            except SystemExit:
                # a requeued element finds its entry by the job
                entries.update(number, state="stopped", why=f"job {job.job_id} was preempted, timed out, or canceled")
                raise
            tell(outcome.ended(lifecycle.end(entry, 0)))

    def checkpoint(self, number: int) -> Any:
        """The same element of the next round, as submitit requires."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, number)

    def _begun(self, number: int, job: str, held: ExitStack) -> Entry:
        """The entry, claimed; it is on record as running, or why it is not. Raises Ended if it is not of this job."""
        with entries.changing():
            entry = entries.get(number)
            own = entry.state in ("submitted", "stopped", "running") and entry.job == job
            if not (own or entry.state == "waiting"):
                raise Ended(f"entry {number} is {entry.state}; it is not run by job {job}")
            try:
                held.enter_context(entries.claim(number))
            except UserError:
                raise Ended(f"entry {number} is run by another process") from None
            place = {"host": platform.node(), "device": None, "job": job, "logs": str(paths.launches() / self.launch)}
            return lifecycle.begin(entry, self.changed, **place)

    def _task(self, entry: Entry) -> Task:
        words = tuple(lifecycle.program(entry))
        return Task(words, entry.cwd, self.launch, self.seconds, self.gpus, self.second, entry.invocation)


def submit(launcher: Launcher, numbers: Sequence[int], changed: Changed = "hold", at_once: int | None = None) -> None:
    """Submit waiting entries as one job array, and print where they run. numbers: of the entries; all that are ready if
    empty.  at_once: most elements that run at the same time. Raises UserError."""
    with entries.changing():
        every = entries.read()
        unknown = [number for number in numbers if number not in every]
        chosen = [each for each in every.values() if isinstance(each, Entry) and each.number in (numbers or every)]
        left = {each.number: entries.waits_for(each, every)[0] for each in chosen if each.state == "waiting"}
        ready = [each for each in chosen if each.state == "waiting" and not left[each.number]]
        wrong = [f"{number}: the queue has no such entry" for number in unknown]
        wrong += [f"{each.number}: it is {each.state}" for each in chosen if numbers and each.state != "waiting"]
        if wrong or not ready:
            raise UserError(wrong or ["no entry is ready: labbook queue list shows what each of them waits for"])
        place = new_folder("queue")
        task = QueueTask(place.name, launcher.save_seconds, changed, visible(launcher))
        jobs = hand_over(launcher, place, task, [each.number for each in ready], at_once)
        for entry, job in zip(ready, jobs, strict=True):
            entries.write(entry.but(state="submitted", job=str(job.job_id), logs=str(place)))
            tell(f"{entry.number} is job {job.job_id} on {launcher.cluster}: {lifecycle.command(entry)}")
    tell(f"logs    {place}")
    if waiting := {number: others for number, others in left.items() if others}:
        for number, others in waiting.items():
            tell(f"{number} is not submitted: it waits for {', '.join(map(str, others))}")
        tell("submit again once those have finished")
