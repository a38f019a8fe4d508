"""A Ray cluster: the connection to it, the room that it has, and the environment of processes on its nodes."""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from core.cluster.task import RANKS
from core.common import extras, paths
from core.common.errors import UserError
from core.common.reach import refuse_unreachable_ray

GPUS = "CUDA_VISIBLE_DEVICES"


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect this process to a running Ray cluster. Raises UserError if that is not possible.

    address: HOST:PORT of its head; none: $RAY_ADDRESS, or the cluster of this machine.
    """
    ray = extras.library("ray", "ray", "--cluster ray")
    if address is not None:
        if not re.fullmatch(r"[\w.-]+:\d+", address):
            raise UserError([f"--address {address}: should be HOST:PORT of the head of a Ray cluster"])
        refuse_unreachable_ray("--address", address)
    before = signal.getsignal(signal.SIGTERM)  # Ray replaces it by one that exits without saving
    try:
        ray.init(
            address or "auto",
            log_to_driver=False,
            logging_level="ERROR",
            # where the processes of Ray find the classes of labbook
            runtime_env={"env_vars": {"PYTHONPATH": paths.python_path()}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        ray.shutdown()  # of what it has half begun
        raise UserError([_explained(address, str(error))]) from None
    finally:
        with suppress(ValueError):  # not the main thread
            signal.signal(signal.SIGTERM, before)
    try:
        yield
    finally:
        ray.shutdown()


def refuse_too_large(count: int, each: Mapping[str, float], what: str, advice: str) -> None:
    """Raise UserError if the connected cluster cannot hold `count` times the resources `each` at once.

    what: name of what is placed.  advice: the options that make it smaller.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(math.floor(node.get(name, 0) / amount + 1e-6) for name, amount in each.items()) for node in nodes)
    if room < count:
        had = "; ".join(_said({"CPU": 0.0, "GPU": 0.0} | {n: node[n] for n in each if n in node}) for node in nodes)
        needed = f"{what} need {_said(each)} each" if count > 1 else f"{what} needs {_said(each)}"
        raise UserError([f"--cluster ray: {count} {needed}; the cluster has room for {room} ({had}); use {advice}"])


def environment() -> dict[str, str]:
    """The variables that a process on another node gets from this one: all but ranks, GPUs, and those of Ray."""
    own = {name: value for name, value in os.environ.items() if name not in (*RANKS, GPUS) and name[:4] != "RAY_"}
    return own | {"PYTHONPATH": paths.python_path()}


def _explained(address: str | None, reason: str) -> str:
    asked = f"--address {address}" if address else "--cluster ray"
    if "ersion mismatch" in reason:
        versions = re.findall(r"(Ray|Python): (\S+)", reason)
        cluster, here = (" and ".join(map(" ".join, pair)) for pair in (versions[:2], versions[2:]))
        return f"{asked}: the cluster runs {cluster}, this process {here}; use the same versions on every node"
    if address is None:
        return f"{asked}: no Ray cluster found here; start one with `ray start --head`, or name it: --address HOST:PORT"
    return f"{asked}: cannot be used: {reason.strip().splitlines()[0][:300]}"


def _said(resources: Mapping[str, float]) -> str:
    """For example 2 CPUs, 0.5 GPUs, 4 GB of memory."""
    units = {"CPU": "CPUs", "GPU": "GPUs"}
    return ", ".join(
        f"{amount / 2**30:.3g} GB of memory" if name == "memory" else f"{amount:.3g} {units.get(name, name)}"
        for name, amount in resources.items()
    )
