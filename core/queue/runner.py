"""The runner of `labbook queue run`: it starts entries in free slots, each as a process in a session of its own."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from core.cluster.task import RANKS
from core.common import paths
from core.common.errors import UserError
from core.common.signals import Stop
from core.common.terminal import complain, tell
from core.common.text import few
from core.queue import entries, lifecycle, outcome
from core.queue.entries import Damaged, Entry
from core.queue.lifecycle import Changed
from core.queue.slots import Slot
from core.queue.start import TAKEN

POLL = 0.2  # seconds between looks at the processes
LOOK = 1.0  # seconds between looks at the queue


@dataclass
class Job:
    """An entry that this runner looks after. held: its claim.  process: None while a process that another runner has
    started trains it.  asked: whether it was asked to save and stop."""

    entry: Entry
    slot: Slot
    held: ExitStack
    process: subprocess.Popen[bytes] | None = None
    asked: bool = False


@dataclass
class Runner:
    """Runs entries in its slots until none is left, or `forever`.

    changed: what to do with an entry whose code has changed.  trouble: whether something failed or was held.  closed:
    whether no more entries are started, because the queue cannot be written.
    """

    slots: Sequence[Slot]
    changed: Changed = "hold"
    forever: bool = False
    jobs: list[Job] = field(default_factory=list)
    trouble: bool = False
    closed: bool = False
    damaged: set[int] = field(default_factory=set)

    def run(self) -> int:
        """Returns the exit status: 0 if everything finished, 1 if something failed or is left, 128 + signal if it was
        interrupted."""
        looked = 0.0
        with Stop() as stop, stop.at_step_end():
            while True:
                ended = [job for job in self.jobs if self._has_ended(job, bool(stop.number))]
                self.jobs = [job for job in self.jobs if job not in ended]
                if stop.number or self.closed:
                    if not self.jobs:
                        break
                elif ended or time.monotonic() - looked > LOOK:
                    looked = time.monotonic()
                    if not (self._fill() or self.jobs or self.forever or self.closed):
                        break
                time.sleep(POLL)
        if stop.number:
            complain("stopped; labbook queue run resumes what was interrupted")
            return 128 + stop.number
        return int(self._left() or self.trouble or self.closed)

    def _fill(self) -> bool:
        """Start entries in all free slots. Returns whether others may become ready without anybody's help."""
        try:
            while len(self.jobs) < len(self.slots):
                job, soon = self._next()
                if job is None:
                    return soon
                self.jobs.append(job)
                if job.process is None and not entries.is_trained(job.entry.number):
                    self._start(job)
        except (OSError, UserError) as error:
            self._close(error)
        return False

    def _next(self) -> tuple[Job | None, bool]:
        """(the next entry, claimed, or None; whether one may become ready later). Raises OSError, and UserError."""
        soon = False
        with entries.changing(), ExitStack() as held:
            every = entries.read()
            for number, entry in every.items():
                if isinstance(entry, Damaged):
                    self._report_damage(entry)
                    continue
                ready, later = self._is_ready(entry, every)
                soon |= later
                if not ready:
                    continue
                try:
                    held.enter_context(entries.claim(number))
                except UserError:  # a runner looks after it
                    continue
                slot = self._slot(entry, every)
                if slot is None:
                    return None, True
                if entries.is_trained(number):
                    pid = entries.process_of(number)
                    tell(f"{number} is still trained by process {pid}, whose runner has ended; waiting for it")
                    return Job(entry, slot, held.pop_all()), True
                if started := self._prepared(entry, slot):
                    return Job(started, slot, held.pop_all()), True
                every[number] = entries.get(number)
                held.close()
        return None, soon

    def _is_ready(self, entry: Entry, every: dict[int, Entry | Damaged]) -> tuple[bool, bool]:
        """(whether an entry can be started or resumed; whether it may be, later). Skips it if it never can."""
        if entry.state == "running":
            return not entry.job, False
        if entry.state != "waiting" and not (entry.state == "changed" and self.changed == "run"):
            return False, False
        left, why = entries.waits_for(entry, every)
        if why:
            self.trouble = True
            every[entry.number] = entries.write(entry.but(state="skipped", why=why, ended=entries.now()))
            tell(f"{entry.number} is skipped: {why}")
            return False, False
        others = [every[number] for number in left]
        return not left, any(isinstance(each, Entry) and each.state == "running" for each in others)

    def _slot(self, entry: Entry, every: Mapping[int, Entry | Damaged]) -> Slot | None:
        """A free slot: of GPUs, one that no entry of another runner on this machine uses."""
        free = list(self.slots)
        for job in self.jobs:
            free.remove(job.slot)
        if entries.is_trained(entry.number):
            return next((slot for slot in free if slot.device == entry.device), free[0])
        here = platform.node()
        others = [each for each in every.values() if isinstance(each, Entry) and each.state == "running"]
        used = {each.device for each in others if each.device and each.host == here and entries.is_live(each.number)}
        return next((slot for slot in free if slot.device not in used), None)

    def _prepared(self, entry: Entry, slot: Slot) -> Entry | None:
        """The entry, on record as running; None if it has finished meanwhile, failed, or is held, which is said."""
        found = lifecycle.begin(entry, self.changed, host=platform.node(), device=slot.device, job="", logs="")
        if found.state == "running":
            if found.why:
                tell(f"{entry.number}: {found.why}; it runs with the present code")
            return found
        self.trouble |= found.state != "finished"
        tell(outcome.ended(found))
        return None

    def _start(self, job: Job) -> None:
        """Start the process of an entry. Raises OSError."""
        entry = job.entry
        verb = "resumes" if entry.starts > 1 else "starts"
        where = f" on GPU {job.slot.device}" if job.slot.device else ""
        tell(f"{entry.number} {verb}{where}: {lifecycle.command(entry)}")
        lock = str(entries.run_lock(entry.number))
        with entry.log.open("ab") as log:
            job.process = subprocess.Popen(
                [sys.executable, "-m", "core.queue.start", lock, *lifecycle.program(entry)],
                cwd=entry.cwd,
                env=environment(entry, job.slot),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal must not reach it: it gets a single SIGTERM from here
            )

    def _has_ended(self, job: Job, stopping: bool) -> bool:
        """Look at a job, and ask it to save and stop if this runner stops."""
        number = job.entry.number
        status = job.process.poll() if job.process else None
        if status == TAKEN and entries.is_trained(number):
            job.process = status = None
        elsewhere = job.entry.host != platform.node()
        if status is None and (job.process or entries.is_trained(number)) and not (stopping and elsewhere):
            if stopping and not job.asked:
                job.asked = True
                if pid := job.process.pid if job.process else entries.process_of(number):
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGTERM)
            return False
        try:
            if status is None or status == TAKEN:  # nobody saw its end
                if not (stopping or self.closed) and self._begins_again(job):
                    return False
            else:
                self._record(job, 128 - status if status < 0 else status)
        except (OSError, UserError) as error:
            self._close(error)
        job.held.close()
        return True

    def _begins_again(self, job: Job) -> bool:
        """Start an entry whose process another runner had started, unless its run has finished. Returns whether it
        was started. Raises OSError, and UserError."""
        with entries.changing():
            started = self._prepared(entries.get(job.entry.number), job.slot)
        if started:
            job.entry = started
            self._start(job)
        return started is not None

    def _record(self, job: Job, status: int) -> None:
        """Write down how an entry has ended. Raises OSError, and UserError."""
        number = job.entry.number
        if status and job.asked:
            entries.update(number, status=status, ended=entries.now(), run=outcome.run_of(job.entry))
            tell(f"{number} has stopped, to be resumed")
            return
        self.trouble |= bool(status)
        tell(outcome.ended(lifecycle.end(job.entry, status)))

    def _close(self, error: OSError | UserError) -> None:
        self.closed = True
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        reason = f"{where}{error.strerror or error}" if isinstance(error, OSError) else str(error)
        complain(
            f"{reason}; no more entries are started, and what is unrecorded is found by the next labbook queue run"
        )

    def _report_damage(self, found: Damaged) -> None:
        if found.number not in self.damaged:
            self.damaged.add(found.number)
            self.trouble = True
            complain(found.why)

    def _left(self) -> bool:
        """Print what is left in the queue. Returns whether anything is."""
        left: dict[str, list[str]] = {}
        for number, entry in entries.read().items():
            state = entries.shown_state(entry)
            if state in ("waiting", "interrupted", "changed", "stopped"):
                left.setdefault(state, []).append(str(number))
        for state, numbers in left.items():
            tell(f"left in the queue, {state}: {few(numbers)}")
        return bool(left)


def environment(entry: Entry, slot: Slot) -> dict[str, str]:
    """The environment of an entry's process."""
    found = {name: value for name, value in os.environ.items() if name not in RANKS} | slot.environment
    found["PYTHONPATH"] = paths.python_path()
    return found | {"LABBOOK_INVOCATION": entry.invocation, "LABBOOK_HOME": str(paths.home())}
