"""Processes of this machine: concurrent.futures.ProcessPoolExecutor."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait

from core.common.errors import UserError
from core.common.terminal import complain
from core.engines.engine import AHEAD, ATTEMPTS, R, T


class Local:
    """So many worker processes; with 0, tasks run in this process."""

    def __init__(self, workers: int):
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """See Engine."""
        if not self.workers:
            yield from map(function, tasks)
            return
        waiting: deque[tuple[T, Future[R]]] = deque()
        rest, deaths = iter(tasks), 0
        while True:
            while len(waiting) < AHEAD * self.workers and (more := list(islice(rest, 1))):
                waiting.append((more[0], self._submitted(function, more[0])))
            if not waiting:
                return
            task, future = waiting[0]
            try:
                result = future.result()
            except BrokenProcessPool:
                deaths += 1
                if deaths >= ATTEMPTS:
                    raise UserError(_lost(task)) from None
                complain("a worker process died; its tasks are run again")
                self.close()
                waiting = deque(
                    (task, future if _done(future) else self._submitted(function, task)) for task, future in waiting
                )
                continue
            waiting.popleft()
            deaths = 0
            yield result

    def close(self) -> None:
        """End the processes; tasks that have not begun are not run."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def _submitted(self, function: Callable[[T], R], task: T) -> Future[R]:
        try:
            return self._running(function).submit(function, task)
        except BrokenProcessPool:  # noticed here, before any result was asked for
            lost: Future[R] = Future()
            lost.set_exception(BrokenProcessPool())
            return lost

    def _running(self, function: Callable[[T], R]) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([function.__module__])  # imported once, and not by every worker
            self._pool = ProcessPoolExecutor(self.workers, context, _ready)
        return self._pool


def _done(future: Future[R]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _lost(task: object) -> list[str]:
    return [
        f"worker processes died {ATTEMPTS} times in a row at {task}",
        "if memory ran out, use fewer --workers; otherwise the log of the kernel (dmesg) says what killed them",
    ]


def _ready() -> None:
    """Leave Ctrl-C to the parent, and end with it, also if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
