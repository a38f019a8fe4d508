"""`python -m core.cluster.ray_job LAUNCHER FOLDER MODULE WORDS`: the ranks of one job on the nodes of a Ray cluster.

An agent on each node, a Ray actor, starts the processes of this node with the environment that torchrun gives them.
If a node dies, agents are placed on the nodes that are left, or that have joined, and all ranks start again; they
resume from the last checkpoint, because they belong to the same job (`core.common.ranks.invocation`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from core.cluster.job import Launcher
from core.cluster.ray_cluster import GPUS, connected, environment, refuse_too_large
from core.common import paths
from core.common.errors import UserError
from core.common.terminal import complain, tell

_SILENCE = 60.0  # s without an answer after which an agent is considered lost
_LAST = 30.0  # s that other ranks have to leave after one of them failed


class Agent:
    """The processes of one node. A Ray actor: it is constructed and called on the node."""

    def __init__(self) -> None:
        self.children: list[subprocess.Popen[bytes]] = []

    def meeting_point(self) -> tuple[str, int]:
        """Returns (address, free port) of this node."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def start(
        self, words: Sequence[str], cwd: str, folder: Path, given: Mapping[str, str], first: int, launcher: Launcher
    ) -> None:
        """Start the processes of this node. first: the lowest rank here.  folder: of their logs."""
        count, gpus = launcher.tasks, os.environ.get(GPUS, "") if launcher.gpus_per_node else ""
        for local in range(count):
            ranks = {"RANK": first + local, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": count}
            ranks = ranks if "WORLD_SIZE" in given else {}
            with open(_log(folder, first + local), "ab") as log:
                child = subprocess.Popen(
                    [sys.executable, "-u", "-m", "core.cluster.rank", *words],
                    cwd=cwd,
                    env={**given, GPUS: gpus, **{name: str(value) for name, value in ranks.items()}},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                )
            self.children.append(child)

    def poll(self) -> list[int | None]:
        """Returns the exit status of each process, None while it runs."""
        return [child.poll() for child in self.children]

    def signal(self, number: int) -> None:
        """Send a signal to the processes that still run."""
        for child in self.children:
            child.send_signal(number)


@dataclass
class Job:
    """Runs the ranks of a job, round after round of agents, until they have ended. stopped: whether to save and stop.
    printed: bytes of the log of rank 0 that have been shown."""

    launcher: Launcher
    words: Sequence[str]
    folder: Path
    stopped: bool = False
    printed: int = 0
    agents: list[Any] = field(default_factory=list)

    def __call__(self) -> int:
        """Returns the exit status: 0, that of a failed rank, or 143 if the job was told to stop."""
        for left in reversed(range(self.launcher.rounds)):
            statuses = self._one_start()
            self._show()
            if self.stopped:
                return 128 + signal.SIGTERM
            if statuses is not None:
                return next((status if status > 0 else 128 - status for status in statuses if status), 0)
            if left:
                tell("a node of the cluster was lost; all ranks start again and resume from the last checkpoint")
        complain(f"nodes were lost {self.launcher.rounds} times, which is the number of --rounds")
        return 1

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM."""
        self.stopped = True

    def _one_start(self) -> list[int] | None:
        """The exit statuses of all ranks; None if a node was lost, or if the job was stopped before they started."""
        import ray
        from ray.util.placement_group import placement_group, remove_placement_group

        group = placement_group([needs(self.launcher)] * self.launcher.nodes, strategy="SPREAD")
        try:
            if not self._placed(group):
                return None
            self._start(group)
            return self._attend()
        except (ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            return None
        finally:
            for agent in self.agents:
                ray.kill(agent)  # and with it what is left of its ranks
            self.agents = []
            remove_placement_group(group)

    def _placed(self, group: Any) -> bool:
        """Wait until the nodes have room. Returns False if the job was stopped before."""
        waits = False
        while not group.wait(2) and not self.stopped:
            if not waits:
                tell("waiting for resources: the nodes of the cluster are in use, or were lost")
            waits = True
        return not self.stopped

    def _start(self, group: Any) -> None:
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle, tasks = needs(self.launcher), self.launcher.tasks
        for node in range(self.launcher.nodes):
            place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=node)
            actor = ray.remote(Agent).options(
                num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), scheduling_strategy=place
            )
            self.agents.append(actor.remote())
        host, port = ray.get(self.agents[0].meeting_point.remote(), timeout=_SILENCE)
        given = environment()
        # the controller is a job of this machine, its ranks are not
        given["LABBOOK_INVOCATION"] = f"ray {self.folder.name}"
        ranks = {"WORLD_SIZE": str(tasks * len(self.agents)), "MASTER_ADDR": host, "MASTER_PORT": str(port)}
        given |= ranks if tasks * len(self.agents) > 1 else {}
        started = [
            agent.start.remote(self.words, str(Path.cwd()), self.folder, given, node * tasks, self.launcher)
            for node, agent in enumerate(self.agents)
        ]
        ray.get(started, timeout=_SILENCE)

    def _attend(self) -> list[int]:
        """Wait for the end of all ranks. Raises what Ray raises when a node is lost."""
        import ray

        deadline, asked = float("inf"), False
        while True:
            answers = ray.get([agent.poll.remote() for agent in self.agents], timeout=_SILENCE)
            statuses = [status for answer in answers for status in answer]
            self._show()
            if None not in statuses:
                return [status for status in statuses if status is not None]
            if self.stopped and not asked:
                asked, deadline = True, time.monotonic() + 0.7 * self.launcher.save_seconds
                self._signal(signal.SIGTERM)
            elif any(statuses):
                deadline = min(deadline, time.monotonic() + _LAST)
            if time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            time.sleep(0.3)

    def _signal(self, number: int) -> None:
        for agent in self.agents:
            agent.signal.remote(number)

    def _show(self) -> None:
        """Print what rank 0 has printed since."""
        log = _log(self.folder, 0)
        if log.exists():
            with log.open("rb") as file:
                file.seek(self.printed)
                new = file.read()
            self.printed += len(new)
            sys.stdout.write(new.decode(errors="replace"))
            sys.stdout.flush()


def needs(launcher: Launcher) -> dict[str, float]:
    """The resources of one node of a job, by their names in Ray."""
    found = {"CPU": float((launcher.cpus_per_task or 1) * launcher.tasks)}
    if launcher.gpus_per_node:
        found["GPU"] = float(launcher.gpus_per_node)
    if launcher.mem_gb:
        found["memory"] = launcher.mem_gb * 2**30
    return found


def refuse_too_large_a_job(launcher: Launcher) -> None:
    """Raise UserError if the cluster cannot be reached, or has no room for this job."""
    with connected(launcher.address):
        what = "node of the job" if launcher.nodes == 1 else "nodes of the job"
        options = "fewer --nodes, --tasks_per_node, --cpus_per_task or --gpus_per_node"
        refuse_too_large(launcher.nodes, needs(launcher), what, options)


def _log(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank}.out"


def main(words: Sequence[str]) -> int:
    """Returns the exit status of the job."""
    record, name, *rest = words
    job = Job(Launcher.read(json.loads(record)), rest, paths.launches() / name)
    log = _log(job.folder, 0)
    job.printed = log.stat().st_size if log.exists() else 0  # what an earlier round of the job has shown
    try:
        with connected(job.launcher.address):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, job.note)
            return job()
    except UserError as mistakes:
        complain("\n".join(mistakes.lines))
        return 1


if __name__ == "__main__":
    from core.cluster.ray_job import main as imported  # nodes find the class of the agents by the name of its module

    sys.exit(imported(sys.argv[1:]))
