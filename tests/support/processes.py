"""Trainings as processes: ranks started, steps waited for."""

from __future__ import annotations

import socket
import time

from core.record import journal
from tests.support.runs import only_run

PROGRAM = "experiments.tiny"


COMMON = ("--mlflow", "false", "--threads", "1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(forge, *words, ranks=2, **env):
    """The processes of one run, as torchrun would start them."""
    shared = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return [
        forge.start(
            *words,
            env={name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank, **env}.items()},
        )
        for rank in range(ranks)
    ]


def wait_for_step(home, step, run=only_run, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if list((home / "mlruns" / "runs").glob("*/journal.jsonl")):
            history = journal.history(run(home).folder).get("step/loss", {0: 0})
            if max(history) >= step:
                return
        time.sleep(0.005)
    raise AssertionError(f"step {step} never came")
