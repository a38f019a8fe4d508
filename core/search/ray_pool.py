"""Workers on the nodes of a Ray cluster. Each has a host, a Ray actor, which starts the worker process of its node and
passes on its messages; if the node dies, another host is placed on a node that has room."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from typing import Any

from core.cluster.ray_cluster import GPUS, environment, refuse_too_large
from core.common.errors import UserError
from core.launch import Launch
from core.search.options import Search
from core.search.pool import Pool, Worker, start_worker

_WAIT = 20.0  # s without a node for a worker after which that is reported


class Host:
    """The worker of one node. A Ray actor: it is constructed and called on the node, by several threads at once."""

    def __init__(self, variables: Mapping[str, str], cwd: str) -> None:
        gpus = {GPUS: os.environ[GPUS]} if GPUS in os.environ else {}
        os.environ.clear()
        os.environ.update({**variables, **gpus})
        os.chdir(cwd)
        self.worker = start_worker(0)

    def is_ready(self) -> bool:
        return self.worker.process.is_alive()

    def send(self, message: Any) -> None:
        self.worker.send(message)

    def receive(self) -> tuple[Any, ...]:
        """Returns the next message of the worker, or ("gone", how) if it has died."""
        try:
            message: tuple[Any, ...] = self.worker.connection.recv()
        except (EOFError, OSError):
            return "gone", self.worker.process.how_it_died()
        return message

    def stop(self) -> None:
        self.worker.process.stop()


class RemoteProcess:
    """The worker of a host as the parent process sees it. messages: what it has sent."""

    def __init__(self, host: Any) -> None:
        self.host = host
        self.how = "its node was lost"
        self.messages, self._from_host = Pipe(duplex=False)
        self._relay = threading.Thread(target=self._pass_on, daemon=True)
        self._relay.start()

    def _pass_on(self) -> None:
        """Pass messages on until the host is gone."""
        import ray

        with suppress(ray.exceptions.RayError, OSError), self._from_host:
            while (message := ray.get(self.host.receive.remote()))[0] != "gone":
                self._from_host.send(message)
            self.how = message[1]

    def send(self, message: Any) -> None:
        self.host.send.remote(message)

    def stop(self) -> None:
        self.host.stop.remote()

    def is_alive(self) -> bool:
        return self._relay.is_alive()

    def end(self, seconds: float) -> None:
        self.how_it_died()  # the worker follows its host
        self._relay.join(seconds)

    def how_it_died(self) -> str:
        import ray

        ray.kill(self.host)  # Ray may have lost sight of it for a moment only
        return self.how


class RayPool(Pool):
    """A pool of at most `count` workers on a cluster. A worker gets a trial once its host has been placed.

    resources: of each worker, by their names in Ray.  say: prints a line.
    """

    def __init__(self, count: int, resources: Mapping[str, float], say: Callable[[str], None]):
        super().__init__(count)
        self.resources, self.say = resources, say
        self.hired: dict[int, tuple[Any, Any]] = {}  # place -> host that is not placed yet, and its first answer
        self.since = time.monotonic()  # when a host was placed, or none was waited for
        self.reported = 0

    def _idle(self) -> list[int]:
        for place in range(self.count):
            if place not in self.workers and place not in self.hired:
                self.hired[place] = self._hire()
        self._take_on()
        return [place for place, worker in self.workers.items() if not worker.tasks]

    def _hire(self) -> tuple[Any, Any]:
        import ray

        host = (
            ray.remote(Host)
            .options(
                num_cpus=self.resources["CPU"],
                num_gpus=self.resources.get("GPU", 0),
                max_concurrency=4,  # receive waits for the worker meanwhile
                scheduling_strategy="SPREAD",
            )
            .remote(environment(), os.getcwd())
        )
        return host, host.is_ready.remote()

    def _take_on(self) -> None:
        """Turn the hosts that have been placed into workers."""
        import ray

        answers = {answer: place for place, (_, answer) in self.hired.items()}
        ready = ray.wait(list(answers), num_returns=len(answers), timeout=0)[0] if answers else []
        for answer in ready:
            place = answers[answer]
            host, _ = self.hired.pop(place)
            try:
                ray.get(answer)
            except ray.exceptions.RayError as error:
                self._count_failed_start(str(error).strip().splitlines()[-1][:200])
                continue
            process = RemoteProcess(host)
            self.workers[place] = Worker(place, process, process.messages)
        if ready or not self.hired:
            self.since, self.reported = time.monotonic(), 0
        elif time.monotonic() - self.since > _WAIT and self.reported != len(self.hired):
            self.reported = len(self.hired)
            self.say(f"{self.reported} of {self.count} workers wait for room on the Ray cluster, or for their node")

    def close(self) -> None:
        """Stop all workers: a running trial is saved first. Hosts that wait for a node are given up."""
        import ray

        for host, _ in self.hired.values():
            ray.kill(host)
        self.hired.clear()
        super().close()


def resources(options: Search, launch: Launch) -> dict[str, float]:
    """What each worker reserves: its CPU threads and loader workers, and its share of a GPU if the cluster has any.

    Raises UserError if the connected cluster has no room for all workers at once.
    """
    import ray

    if launch.device.startswith("cuda:"):
        raise UserError([f"--device {launch.device}: with --cluster ray, a worker sees only its own GPU; use cuda"])
    found = {"CPU": float((launch.threads or 1) + (options.loader_workers or 0))}
    if launch.device == "cuda" or (launch.device == "auto" and ray.cluster_resources().get("GPU")):
        found["GPU"] = 1 / options.workers_per_gpu
    what = "worker" if options.workers == 1 else "workers"
    refuse_too_large(options.workers, found, what, "fewer --workers or --threads, or more --workers_per_gpu")
    return found
