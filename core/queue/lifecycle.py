"""How an entry begins and ends, wherever it runs: what its file says then."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Any, Literal

from core.common.errors import UserError
from core.common.text import few, public
from core.queue import code, entries, outcome
from core.queue.entries import Entry

Changed = Literal["hold", "run"]
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit statuses of a run that was asked to save and stop


def begin(entry: Entry, changed: Changed, **place: Any) -> Entry:
    """Write down that an entry starts, or why it does not: its run has finished meanwhile, its folder is gone, or its
    code has changed and is held. The caller holds the lock of the queue. place: fields that say where it runs.

    Returns the entry; it is `running` if it is to be started. Raises OSError.
    """
    run = outcome.run_of(entry)
    if run and outcome.is_finished(run):
        return entries.write(entry.but(state="finished", status=0, run=run, ended=entries.now(), why=""))
    if not Path(entry.cwd).is_dir():
        why = f"the folder in which it was added does not exist: {entry.cwd}"
        return entries.write(entry.but(state="failed", why=why, ended=entries.now()))
    why = _changes(entry)
    if why and changed == "hold":
        advice = f"it is held; to run it with the present code: labbook queue retry {entry.number}"
        return entries.write(entry.but(state="changed", why=f"{why}; {advice}"))
    started = {"starts": entry.starts + 1, "started": entries.now(), "ended": "", "status": None, "why": why}
    return entries.write(entry.but(state="running", run=run, **started, **place))


def end(entry: Entry, status: int) -> Entry:
    """Write down how the process of an entry has ended. Returns the entry. Raises OSError, and UserError."""
    found: dict[str, Any] = {"status": status, "ended": entries.now(), "run": outcome.run_of(entry)}
    if status in STOPPED:
        name = signal.Signals(status - 128).name
        again = f"to resume it: labbook queue retry {entry.number}"
        found |= {"state": "stopped", "why": f"its process received {name}; {again}"}
    elif status:
        line = outcome.last_line(entry)
        found |= {"state": "failed", "why": f"exit status {status}{': ' if line else ''}{line}"}
    else:
        found |= {"state": "finished"}
    return entries.update(entry.number, **found)


def program(entry: Entry) -> list[str]:
    """The arguments of `python -m` for an entry."""
    return [f"experiments.{entry.name}", *entry.words[1:]]


def command(entry: Entry) -> str:
    """The command line of an entry, for messages, without passwords in URIs."""
    return shlex.join(["python", "-m", *(public(word, whole=True) for word in program(entry))])


def _changes(entry: Entry) -> str:
    """How the code has changed since an entry was added; empty if it has not. Raises OSError."""
    try:
        found = code.changed(entry)
    except UserError as wrong:
        return str(wrong)
    if not found:
        return ""
    whole = entries.file(entry.number, "diff")
    return f"the code has changed since it was added: {few(found)}; the whole diff is {whole}"
