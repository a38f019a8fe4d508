"""Entries of the queue: one JSON file each, in mlruns/queue/, changed only by who holds the lock of the queue.

    00012.json   the entry: its command line, what it waits for, its state, its last start and end
    00012.log    what its runs have printed, of all of its starts
    00012.diff   how the code differs from that of when it was added, if it does
    code/        the code at the time when entries were added; core/queue/code.py
    locks/       12.runner is held by the process that looks after the entry, 12.run by the process that trains

The kernel releases both locks when their process dies, so no entry is lost: one that is `running` on paper, and whose
locks are free, was interrupted, and the next runner resumes it.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.common import paths
from core.common.errors import UserError
from core.common.files import make_folder, write_atomic
from core.record.lock import is_free, locked

PATIENCE = 60.0  # seconds to wait for the lock of the queue; it is held for milliseconds
TIME = "%Y-%m-%dT%H:%M:%S"
_RUNNER, _RUN = "runner", "run"  # locks of an entry

# changed: its code has changed, so it is held.  stopped: somebody has ended its process, so it is not started again
State = Literal["waiting", "running", "submitted", "changed", "stopped", "finished", "failed", "skipped", "removed"]


class Entry(BaseModel):
    """An entry of the queue.

    words: experiment, verb and options.  cwd: folder in which they were typed.  invocation: name of the job, by which
    its run is found again.  code: key of the code when it was added.  after: entries that have to finish first.
    why: reason of its state.  starts: how often it was started, the last time on `host`, on the GPU `device` (as
    CUDA_VISIBLE_DEVICES has it).  status: exit status of its last start.  run: id of its run.  job: of Slurm, with its
    logs in the folder `logs`.  Times are local, ISO 8601.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    labbook: Literal[1] = 1
    number: int = Field(ge=1)
    state: State = "waiting"
    why: str = ""
    words: list[str] = Field(min_length=1)
    cwd: str
    after: list[int] = []
    code: str = ""
    invocation: str
    added: str
    started: str = ""
    ended: str = ""
    starts: int = Field(0, ge=0)
    status: int | None = None
    run: str = ""
    host: str = ""
    device: str | None = None
    job: str = ""
    logs: str = ""

    def but(self, **changes: Any) -> Entry:
        """The entry with other values."""
        return self.model_copy(update=changes)

    @property
    def name(self) -> str:
        """The experiment."""
        return self.words[0]

    @property
    def log(self) -> Path:
        """The file to which its runs print."""
        return Path(self.logs) / f"{self.job}_0_log.out" if self.job else file(self.number, "log")


class Damaged(BaseModel):
    """An entry whose file cannot be read. why: names the file and the problem."""

    number: int
    why: str


def folder() -> Path:
    """The folder of the queue."""
    return paths.queue()


def file(number: int, kind: str = "json") -> Path:
    """A file of an entry: its json, log or diff."""
    return folder() / f"{number:05d}.{kind}"


def now() -> str:
    """The time, as entries have it."""
    return time.strftime(TIME)


@contextmanager
def changing(what: str = "lock") -> Iterator[None]:
    """Context manager: hold a lock of the queue: that of its entries, or `code`. Raises UserError if another process
    does not release it, or if the folder cannot be written."""
    place = folder()
    with ExitStack() as held:
        try:
            make_folder(place / "locks")
            held.enter_context(locked(place, PATIENCE, what if what == "lock" else f"{what}.lock"))
        except OSError as error:
            raise UserError([f"{error.filename or place}: {error.strerror}"]) from None
        except UserError:
            raise UserError([f"{place}: another process has held its lock for {PATIENCE:.0f} s"]) from None
        yield


def write(entry: Entry) -> Entry:
    """Write an entry, atomically. The caller holds the lock of the queue. Raises OSError."""
    path = file(entry.number)
    try:
        write_atomic(path, json.dumps(entry.model_dump(), indent=1) + "\n")
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from None
    return entry


def read() -> dict[int, Entry | Damaged]:
    """Number -> entry, the earliest first, without those that were removed."""
    found = {number: _read(number) for number in numbers()}
    return {n: each for n, each in found.items() if isinstance(each, Damaged) or each.state != "removed"}


def numbers() -> list[int]:
    """The numbers of all entries, also of those that were removed."""
    names = (path.stem for path in folder().glob("*.json"))
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def get(number: int) -> Entry:
    """An entry. Raises UserError if it does not exist, or is damaged."""
    found = _read(number) if file(number).exists() else None
    if found is None:
        raise UserError([f"{number}: the queue has no such entry; labbook queue list shows all"])
    if isinstance(found, Damaged):
        raise UserError([found.why])
    return found


def add(commands: Sequence[Sequence[str]], cwd: str, after: Sequence[int], code: str) -> list[Entry]:
    """Add an entry for each command line: all of them or, on a full disk, none. Raises OSError, and UserError."""
    with changing():
        # those of logs and damaged files count, too: no number is given twice
        taken = [int(path.stem) for path in folder().glob("[0-9]*.*") if path.stem.isdecimal()]
        added: list[Entry] = []
        try:
            for number, words in enumerate(commands, max(taken, default=0) + 1):
                made = Entry(
                    number=number,
                    words=list(words),
                    cwd=cwd,
                    after=list(after),
                    code=code,
                    invocation=new_invocation(number),
                    added=now(),
                )
                added.append(write(made))
        except OSError:
            for made in added:
                file(made.number).unlink(missing_ok=True)
            raise
    return added


def new_invocation(number: int) -> str:
    """A name for the job of an entry; that of no other home, and no other queue, is equal."""
    return f"queue {number} {secrets.token_hex(4)}"


def update(number: int, **changes: Any) -> Entry:
    """Change an entry. Raises OSError, and UserError as `get` does."""
    with changing():
        return write(get(number).but(**changes))


def claim(number: int) -> Any:
    """Context manager: look after an entry. Raises UserError if another process does."""
    return locked(folder() / "locks", 0.0, f"{number}.{_RUNNER}")


def run_lock(number: int) -> Path:
    """The file that the process that trains an entry locks."""
    return folder() / "locks" / f"{number}.{_RUN}"


def is_trained(number: int) -> bool:
    """Whether a process trains this entry, perhaps one whose runner has died."""
    return not is_free(folder() / "locks", f"{number}.{_RUN}")


def process_of(number: int) -> int | None:
    """The id of the process that trains an entry, on the host of the entry; None if there is none."""
    text = run_lock(number).read_text().strip() if is_trained(number) else ""
    return int(text) if text.isdecimal() else None


def is_live(number: int) -> bool:
    """Whether a process trains this entry, or looks after it."""
    return is_trained(number) or not is_free(folder() / "locks", f"{number}.{_RUNNER}")


def shown_state(entry: Entry | Damaged) -> str:
    """The state for people: `interrupted` for an entry that no process trains any more, and that will be resumed."""
    if isinstance(entry, Damaged):
        return "damaged"
    return "interrupted" if entry.state == "running" and not is_live(entry.number) else entry.state


def waits_for(entry: Entry, every: Mapping[int, Entry | Damaged]) -> tuple[list[int], str]:
    """(the entries that have to finish first, why it is skipped or "")."""
    left: list[int] = []
    for number in entry.after:
        other = every.get(number)
        if other is None:
            return [], f"entry {number} was removed"
        if isinstance(other, Entry) and other.state in ("failed", "skipped"):
            return [], f"entry {number} {'failed' if other.state == 'failed' else 'was skipped'}"
        if isinstance(other, Damaged) or other.state != "finished":
            left.append(number)
    return left, ""


def followers(number: int, every: Iterable[Entry | Damaged]) -> list[Entry]:
    """The entries that wait for an entry, or for one that does."""
    known = [each for each in every if isinstance(each, Entry)]
    found: list[Entry] = []
    asked = [number]
    while asked:
        one = asked.pop()
        new = [each for each in known if one in each.after and each not in found]
        found += new
        asked += [each.number for each in new]
    return found


def _read(number: int) -> Entry | Damaged:
    path = file(number)
    try:
        stat = path.stat()
        return _parsed(path, stat.st_ino, stat.st_mtime_ns, stat.st_size)
    except OSError as error:
        return Damaged(number=number, why=f"{path}: {error.strerror}")


@lru_cache(100_000)
def _parsed(path: Path, *version: int) -> Entry | Damaged:
    """The entry in a file. version: changes with its content, so that a file is read once."""
    number = int(path.stem)
    advice = f"mend the file, or take it out: labbook queue rm {number}"
    try:
        found = Entry.model_validate_json(path.read_bytes())
    except ValidationError as wrong:
        where = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in wrong.errors()[:3])
        return Damaged(number=number, why=f"{path}: damaged: {where}; {advice}")
    if found.number != number:
        return Damaged(number=number, why=f"{path}: damaged: it is entry {found.number} under another name; {advice}")
    return found
