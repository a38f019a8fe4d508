"""The worker processes of a study, as the parent process manages them."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

from core.common.errors import Failing
from core.common.signals import Stop
from core.search.trial import Task
from core.search.worker import work

MAX_FAILED_STARTS = 5
_PATIENCE = 60.0  # s to wait for workers that were asked to stop: a step may take long


class Process(Protocol):
    """What a pool needs of the process of a worker, here or on a node of a cluster."""

    def send(self, message: Any) -> None: ...
    def stop(self) -> None: ...
    def is_alive(self) -> bool: ...
    def end(self, seconds: float) -> None: ...
    def how_it_died(self) -> str: ...


@dataclass
class LocalProcess:
    """A process of this machine."""

    process: SpawnProcess
    connection: Connection

    def send(self, message: Any) -> None:
        """Send a message. Nothing happens if the process is dead; `Pool.messages` reports that."""
        with suppress(OSError):
            self.connection.send(message)

    def stop(self) -> None:
        """Let it save its run at the end of its step, and stop."""
        self.process.terminate()

    def is_alive(self) -> bool:
        return self.process.is_alive()

    def end(self, seconds: float) -> None:
        """End it, after `seconds` by force."""
        self.connection.close()
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def how_it_died(self) -> str:
        self.process.join()
        return f"exit {self.process.exitcode}"


@dataclass
class Worker:
    """A worker process. place: its number, which selects its GPU.  connection: its messages.  tasks: those that it has
    been given and that have not ended, by number.  started: whether it has ever started one."""

    place: int
    process: Process
    connection: Connection
    tasks: dict[int, Task] = field(default_factory=dict)
    started: bool = False

    def give(self, tasks: Sequence[Task]) -> None:
        self.tasks = {task.number: task for task in tasks}
        self.send(tasks)

    def send(self, message: Any) -> None:
        self.process.send(message)


class Pool:
    """A pool of at most `count` workers. Each is started when it is needed; a dead one is replaced."""

    def __init__(self, count: int):
        self.count = count
        self.workers: dict[int, Worker] = {}
        self.failed_starts = 0  # number of consecutive workers that died before their first task

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.tasks]

    def iterate(
        self,
        stop: Stop,
        next_tasks: Callable[[int], Sequence[Task]],
        handle: Callable[[Worker, tuple[Any, ...]], None],
        proceed: Callable[[], bool],
    ) -> None:
        """Give each idle worker tasks and handle messages, until `proceed` returns False or a signal arrives."""
        while not stop.number:
            for place in self._idle():
                tasks = next_tasks(place)
                if not tasks:
                    break
                if place not in self.workers:
                    self.workers[place] = start_worker(place)
                self.workers[place].give(tasks)
            if not proceed():
                return
            for worker, message in self.messages(0.5):
                handle(worker, message)

    def _idle(self) -> list[int]:
        return [place for place in range(self.count) if place not in self.workers or not self.workers[place].tasks]

    def messages(self, seconds: float) -> Iterator[tuple[Worker, tuple[Any, ...]]]:
        """Messages of the workers, after at most `seconds`. The last one of a worker is ("died", how), or
        ("not started", how) if it died before it started its first task.

        Raises Failing if several consecutive workers died before their first task.
        """
        by_object: dict[Any, Worker] = {w.connection: w for w in self.workers.values()}
        for worker in [by_object[found] for found in wait(list(by_object), seconds)]:
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                yield worker, self._removed(worker)
                continue
            if message[0] == "started":
                worker.started, self.failed_starts = True, 0
            else:
                yield worker, message

    def _removed(self, worker: Worker) -> tuple[str, str]:
        how = worker.process.how_it_died()
        del self.workers[worker.place]
        if not worker.started:
            self._count_failed_start(how)
        return ("died" if worker.started else "not started"), how

    def _count_failed_start(self, how: str) -> None:
        self.failed_starts += 1
        if self.failed_starts == MAX_FAILED_STARTS:
            raise Failing(f"{MAX_FAILED_STARTS} consecutive workers died before they started a trial ({how})")

    def close(self) -> None:
        """Stop all workers: a running trial is saved first. Workers that do not stop in time are killed."""
        for worker in self.workers.values():
            if not worker.tasks:
                worker.connection.close()
            else:
                worker.process.stop()
        end = time.monotonic() + _PATIENCE
        for worker in self.workers.values():
            while worker.tasks and worker.process.is_alive() and time.monotonic() < end:
                _drain(worker)
            worker.process.end(max(0.1, min(10.0, end - time.monotonic())))


def _drain(worker: Worker) -> None:
    """Wait for the worker to stop. Its requests are answered so that it reaches the end of its step."""
    try:
        if not worker.connection.poll(0.5):
            return
        kind, *rest = worker.connection.recv()
    except (EOFError, OSError):
        worker.tasks.clear()
        return
    if kind in ("epoch", "score"):
        worker.send(True)
    elif kind in ("ended", "stopped"):
        worker.tasks.pop(rest[0].number if kind == "ended" else rest[0], None)


def start_worker(place: int) -> Worker:
    """Start a worker on this machine."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there,), name=f"trials {place}", daemon=False)
    process.start()
    there.close()
    return Worker(place, LocalProcess(process, here), here)
