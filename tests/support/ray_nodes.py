"""Ray clusters of several nodes in this machine, all on 127.0.0.1, and the death of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest

from tests.support.optional import library

# of the cluster and of what connects to it: without the second, Ray uses the address of this machine, and without the
# third, its workers have the niceness 15
VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}
NODE = {"object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}


@dataclass
class Nodes:
    """A cluster whose head has no CPUs, and nodes of two CPUs each."""

    cluster: Any
    nodes: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> None:
        self.nodes.append(self.cluster.add_node(num_cpus=2, **NODE))

    def processes(self, number: int) -> list[psutil.Process]:
        """The processes of a node: its own, those of Ray's workers, and what these started."""
        raylet = psutil.Process(self.nodes[number].all_processes["raylet"][0].process.pid)
        return [raylet, *raylet.children(recursive=True)]

    def trains(self, number: int) -> bool:
        """Whether a process of labbook is on this node."""
        for process in self.processes(number):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if any(word in " ".join(process.cmdline()) for word in ("core.cluster.rank", "spawn_main")):
                    return True
        return False

    def kill(self, number: int) -> None:
        """As if the machine had lost its power."""
        for process in self.processes(number):
            with suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def started(count: int) -> Iterator[Nodes]:
    """A cluster with a head and `count` nodes; skips the test without Ray."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():  # before Ray is imported, which reads them
            patch.setenv(name, value)
        library("ray", extra="ray")
        from ray.cluster_utils import Cluster

        nodes = Nodes(Cluster())
        try:
            nodes.cluster.add_node(num_cpus=0, include_dashboard=False, **NODE)
            for _ in range(count):
                nodes.add()
            yield nodes
        finally:
            import ray

            ray.shutdown()
            nodes.cluster.shutdown()
