"""The worker process, which trains trials one after another: it receives Tasks and sends messages about them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from core.common.errors import Interrupted, Unfinished


def work(connection: Connection) -> None:
    """Train trials until the other end of the connection is closed.

    Messages: ("started",) on receiving tasks, ("run", number, folder), ("epoch", number, epochs, value) with a reply
    whether to continue, or PAUSE, ("score", number, scores) with a reply whether to keep the weights, ("ended",
    Outcome), ("stopped", number, reason).
    """
    os.setsid()  # Ctrl-C in the terminal goes to the parent, which then stops its workers
    _end_with_parent()
    from core.common.terminal import mute

    mute()
    from core.search.trial import run_trials  # takes seconds, because it imports torch

    while True:
        try:
            tasks = connection.recv()
        except EOFError:
            return
        connection.send(("started",))
        parent = _Parent(connection, {task.number for task in tasks})
        try:
            run_trials(tasks, parent)
        except (Interrupted, Unfinished) as stopped:
            parent.stopped(str(stopped))
        if parent.is_dead:
            return
        _free_gpu()


class _Parent:
    """The other end of the connection. left: numbers of the trials that have not ended."""

    def __init__(self, connection: Connection, left: set[int]):
        self._connection, self.left = connection, left
        self.is_dead = False

    def run(self, number: int, run: Any) -> None:
        self._connection.send(("run", number, str(run.folder)))

    def continues(self, number: int, done: int, value: float) -> bool | str:
        return self._ask("epoch", number, done, value)

    def keeps_weights(self, number: int, scores: list[float]) -> bool:
        return bool(self._ask("score", number, scores))

    def ended(self, outcome: Any) -> None:
        self.left.discard(outcome.number)
        self._send("ended", outcome)

    def stopped(self, reason: str) -> None:
        """The trials that have not ended may be resumed."""
        for number in sorted(self.left):
            self._send("stopped", number, reason)

    def _ask(self, *message: Any) -> bool | str:
        try:
            self._connection.send(message)
            answer: bool | str = self._connection.recv()
            return answer
        except (EOFError, OSError):  # the parent is dead: the next search resumes this run
            raise Interrupted(signal.SIGTERM, "the search has ended") from None

    def _send(self, *message: Any) -> None:
        try:
            self._connection.send(message)
        except OSError:
            self.is_dead = True


def _free_gpu() -> None:
    """Free the GPU memory that reference cycles of the last trial still hold; a collection takes 0.2 s."""
    import torch

    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _end_with_parent() -> None:
    """Save and stop when the parent process dies."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
