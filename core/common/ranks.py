"""The rank of this process and the job that started it, from environment variables. Nothing heavy is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass

PROCESSES = "LABBOOK_PROCESSES"  # set by --processes N for the processes that it starts


@dataclass(frozen=True)
class Ranks:
    """The rank of a process among the `ranks` processes of a run, and its local rank on this machine."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1


def ranks_here() -> Ranks:
    """Returns the ranks that torchrun, `labbook launch` or srun set; those of a single process without them."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(os.environ.get(name, "").isdecimal() for name in names):
        return Ranks()
    return Ranks(*(int(os.environ[name]) for name in names))


def started_together() -> int:
    """Returns the N of the --processes N that started this process; 0 if something else did."""
    return int(os.environ.get(PROCESSES, "0"))


def invocation() -> str | None:
    """Returns the name of the job that started this process and restarts it after a failure; None without a job."""
    env = os.environ
    if "LABBOOK_INVOCATION" in env:
        return env["LABBOOK_INVOCATION"]
    if "SLURM_JOB_ID" in env:
        return f"slurm {env['SLURM_JOB_ID']}"
    if "TORCHELASTIC_RUN_ID" in env:
        return f"torchrun {env['TORCHELASTIC_RUN_ID']}"
    return None


def is_restart() -> bool:
    """Whether the job may have run this command before: it was requeued, or torchrun restarted it."""
    counts = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return "LABBOOK_INVOCATION" in os.environ or any(os.environ.get(name, "0") != "0" for name in counts)


ALONE = Ranks()
