"""Supervision of loader workers: if one dies or hangs, the run ends with an error."""

from __future__ import annotations

import math
import re
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, _utils

from core.common.errors import WorkerLost

_LOST = re.compile(r"DataLoader (worker \(pid|timed out)")
_CAUGHT = "Caught "  # prefix of torch's message for an exception raised in a worker


def is_lost_worker(error: BaseException) -> bool:
    """Whether torch raised this error for a lost worker: when a batch is requested or, on SIGCHLD, at any moment."""
    return isinstance(error, RuntimeError) and bool(_LOST.match(str(error)))


class Watched:
    """Iterates over a loader with workers. Raises WorkerLost if a worker dies, or no batch arrives for `timeout`
    seconds.

    The time limit of torch covers only the announcement of a batch, not its transfer from the worker. A thread kills
    workers that hang during the transfer.
    """

    def __init__(self, loader: DataLoader[Any], timeout: int):
        self.loader, self.timeout = loader, timeout
        self.due, self.killed = math.inf, False
        threading.Thread(target=_watch, args=(weakref.ref(self), timeout / 4), daemon=True).start()

    def epoch(self, epoch: int, start: int) -> Iterator[Any]:
        """One pass over the loader, whose items are the batches of this epoch, starting at `start`."""
        step = start
        try:
            for item in self._timed():
                step += 1
                yield item
        except (RuntimeError, EOFError, ConnectionError) as error:
            # a worker that dies while transferring a batch first shows as a broken connection
            if not is_lost_worker(error) and (isinstance(error, RuntimeError) or str(error).startswith(_CAUGHT)):
                raise
            self._end()
            raise WorkerLost(f"epoch {epoch + 1}, batch {step + 1}: {self._what(error)}") from None

    def _timed(self) -> Iterator[Any]:
        self.due = time.monotonic() + 1.5 * self.timeout
        for item in self.loader:
            self.due = math.inf
            yield item
            self.due = time.monotonic() + 1.5 * self.timeout
        self.due = math.inf

    def look(self) -> None:
        """Kill the workers if a batch is overdue; the waiting thread then raises an error."""
        if time.monotonic() > self.due:
            self.killed, self.due = True, math.inf
            self._kill()

    def _what(self, error: BaseException) -> str:
        if self.killed:
            return f"DataLoader timed out after {self.timeout} seconds"
        return str(error).strip().splitlines()[0] if is_lost_worker(error) else "DataLoader worker died"

    def _end(self) -> None:
        self.due = math.inf
        # torch need not report their death
        _utils.signal_handling._remove_worker_pids(id(self.loader._iterator))  # type: ignore[attr-defined]
        self._kill()

    def _kill(self) -> None:
        """Send SIGKILL, which also ends a stopped worker; a process does not exit before its workers have."""
        iterator: Any = self.loader._iterator  # None until all workers have been started
        for worker in iterator._workers if iterator else ():
            worker.kill()


def _watch(watched: weakref.ref[Watched], seconds: float) -> None:
    while True:
        time.sleep(seconds)
        it = watched()
        if it is None:
            return
        it.look()
        del it
