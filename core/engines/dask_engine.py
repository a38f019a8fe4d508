"""Dask: tasks of dask.distributed, on a cluster of this machine or at the address of a scheduler."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from core.common import extras
from core.common.errors import UserError
from core.common.machine import usable_cores
from core.common.terminal import complain
from core.engines.engine import AHEAD, ATTEMPTS, R, T, in_order

POLL = 2.0  # seconds between two looks at the workers
PATIENCE = 60.0  # seconds without any worker


class Dask:
    """Tasks of a cluster; each worker has one thread, if the cluster is started here."""

    def __init__(self, workers: int | None, scheduler: str | None):
        self.distributed = extras.library("distributed", "dask", "--engine dask")
        self.scheduler = scheduler
        self.workers = workers or (0 if scheduler else usable_cores())
        self._client: Any = None
        self._cluster: Any = None
        self._known: set[str] = set()

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """See Engine."""

        def submit(task: T) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph")  # contents of archives travel with their tasks
                return self._client.submit(function, task, pure=False)

        rest = iter(tasks)
        for first in rest:
            self._connect()
            yield from in_order(submit, self._result, chain([first], rest), AHEAD * self.workers)

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        for each in (self._client, self._cluster):
            if each is not None:
                each.close()
        self._client = self._cluster = None

    def _connect(self) -> None:
        if self._client is not None:
            return
        if not self.scheduler:
            self._cluster = self.distributed.LocalCluster(
                n_workers=self.workers,
                threads_per_worker=1,
                host="127.0.0.1",
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        try:
            self._client = self.distributed.Client(self._cluster or self.scheduler, timeout=10, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError([f"--scheduler {self.scheduler}: no scheduler of Dask answers ({error})"]) from None
        self._wait_for_workers()
        self.workers = self.workers or sum(self._threads().values())
        self._refuse_other_versions()

    def _wait_for_workers(self) -> None:
        until = time.monotonic() + PATIENCE
        while not self._threads():
            if time.monotonic() > until:
                raise UserError([f"the cluster of Dask has no workers for {PATIENCE:.0f} seconds; start some"])
            time.sleep(0.1)

    def _threads(self) -> dict[str, int]:
        """Address of each worker -> its threads, after printing which ones were lost."""
        threads: dict[str, int] = self._client.nthreads()
        for lost in sorted(self._known - threads.keys()):
            complain(f"the worker {lost} was lost; its tasks are run again by others")
        self._known = set(threads)
        return threads

    def _refuse_other_versions(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self._client.get_versions(check=True)
            except ValueError as error:
                raise UserError(_other_versions(str(error))) from None
        if wrong := [str(one.message) for one in caught if "Mismatched versions" in str(one.message)]:
            raise UserError(_other_versions(wrong[0]))

    def _result(self, future: Any) -> Any:
        lost = self.distributed.scheduler.KilledWorker
        while True:
            try:
                return future.result(timeout=POLL)
            except (self.distributed.TimeoutError, TimeoutError):
                if not self._threads():
                    self._wait_for_workers()
            except lost:
                advice = "if memory ran out, give each of them more"
                raise UserError([f"{ATTEMPTS} workers of Dask or more died at the same task; {advice}"]) from None
            except (ImportError, RuntimeError) as error:
                raise UserError(_unknown(error)) from error
            finally:
                self._threads()


def _other_versions(text: str) -> list[str]:
    return ["the workers of Dask have other versions of packages; install the same ones:", *text.strip().splitlines()]


def _unknown(error: Exception) -> list[str]:
    return [
        f"a worker of Dask cannot run the task ({type(error).__name__}: {error})",
        "install the same labbook on all workers and on the scheduler",
    ]
