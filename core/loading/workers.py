"""The processes that load images: when one dies or hangs, the run says so and ends."""

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
_CAUGHT = "Caught "  # how torch begins what a worker's own code raised


def is_lost_worker(error: BaseException) -> bool:
    """Whether this is what torch says then: when a batch is asked for or, on the signal of its death, at any moment."""
    return isinstance(error, RuntimeError) and bool(_LOST.match(str(error)))


class Watched:
    """The items of a loader with workers. WorkerLost: one died, or none came for `timeout` seconds.

    torch's own time limit ends with the announcement of a batch; what is announced is then fetched from its worker
    without any. A worker that hangs there is killed from beside the loop.
    """

    def __init__(self, loader: DataLoader[Any], timeout: int):
        self.loader, self.timeout = loader, timeout
        self.due, self.killed = math.inf, False
        threading.Thread(target=_watch, args=(weakref.ref(self), timeout / 4), daemon=True).start()

    def epoch(self, epoch: int, start: int) -> Iterator[Any]:
        """One pass over the loader, whose items are the batches of this epoch from `start` on."""
        step = start
        try:
            for item in self._timed():
                step += 1
                yield item
        except (RuntimeError, EOFError, ConnectionError) as error:
            # one that dies while it hands a batch over is first seen as a broken connection
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
        """Kill the workers if a batch is overdue; whoever waits for it then gets an error."""
        if time.monotonic() > self.due:
            self.killed, self.due = True, math.inf
            self._kill()

    def _what(self, error: BaseException) -> str:
        if self.killed:
            return f"DataLoader timed out after {self.timeout} seconds"
        return str(error).strip().splitlines()[0] if is_lost_worker(error) else "DataLoader worker died"

    def _end(self) -> None:
        self.due = math.inf
        # their death is no news any more
        _utils.signal_handling._remove_worker_pids(id(self.loader._iterator))  # type: ignore[attr-defined]
        self._kill()

    def _kill(self) -> None:
        """By the one signal that a stopped process takes; a process does not exit before its workers have."""
        iterator: Any = self.loader._iterator  # None until all of them have been started
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
