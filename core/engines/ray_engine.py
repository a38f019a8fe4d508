"""Ray: tasks of Ray, on this machine or on a running cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from core.common import extras
from core.common.errors import UserError
from core.common.machine import usable_cores
from core.common.reach import refuse_unreachable_ray
from core.common.terminal import complain
from core.engines.engine import AHEAD, ATTEMPTS, R, T, in_order

POLL = 2.0  # seconds between two looks at the nodes


class Ray:
    """Tasks that need one CPU each."""

    def __init__(self, workers: int | None, scheduler: str | None):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.ray = extras.library("ray", "ray", "--engine ray")
        self.scheduler = scheduler
        self.workers = workers or (0 if scheduler else usable_cores())
        self._started = False
        self._alive: set[str] = set()

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """See Engine."""
        rest = iter(tasks)
        for first in rest:
            self._connect()
            remote = self.ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(function)
            yield from in_order(remote.remote, self._result, chain([first], rest), AHEAD * self.workers)

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        if self._started:
            self.ray.shutdown()
        self._started = False

    def _connect(self) -> None:
        if self._started:
            return
        if self.scheduler:
            refuse_unreachable_ray("--scheduler", self.scheduler)
        # with an address, the CPUs are those of the cluster
        how = {} if self.scheduler else {"num_cpus": self.workers, "include_dashboard": False}
        try:
            self.ray.init(address=self.scheduler or "local", logging_level=logging.ERROR, log_to_driver=False, **how)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"--scheduler {self.scheduler}" if self.scheduler else "Ray on this machine"
            advice = "its version of Ray and Python must be the one here, and `ray start --head` must have been run"
            raise UserError([f"{where}: {str(error).strip().splitlines()[0]}", advice]) from None
        self._started = True
        cpus = int(self.ray.cluster_resources().get("CPU", 0))
        if not cpus:
            raise UserError(["the cluster of Ray has no CPU; start nodes with ray start --num-cpus N"])
        self.workers = self.workers or cpus
        self._look()

    def _look(self) -> None:
        """Print which nodes have died since the last look."""
        alive = {node["NodeManagerAddress"] + ":" + node["NodeID"][:8] for node in self.ray.nodes() if node["Alive"]}
        for lost in sorted(self._alive - alive):
            complain(f"the node {lost} was lost; its tasks are run again by others")
        self._alive = alive

    def _result(self, reference: Any) -> Any:
        errors = self.ray.exceptions
        while not self.ray.wait([reference], timeout=POLL)[0]:
            self._look()
            if not self.ray.cluster_resources().get("CPU", 0):
                raise UserError(["the cluster of Ray has lost its last CPU; start nodes and run the command again"])
        self._look()
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, ImportError):
                said = f"a worker of Ray cannot run the task ({error.cause})"
                raise UserError([said, "install the same labbook on all nodes"]) from None
            raise error.cause from None
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
            advice = "if memory ran out, use fewer --workers"
            reason = str(error).strip().splitlines()[0]
            raise UserError([f"workers of Ray died {ATTEMPTS} times at the same task; {advice} ({reason})"]) from None
        except errors.RaySystemError as error:
            raise UserError([f"Ray failed: {str(error).strip().splitlines()[0]}"]) from None
