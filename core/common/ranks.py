"""The rank of this process and what started it, read from the environment. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """One of `ranks` processes that train one run; `local_rank` of `local_ranks` on this machine."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1


def ranks_here() -> Ranks:
    """As torchrun, srun with torch's variables or `labbook launch` say; a single process if none of them is set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(os.environ.get(name, "").isdecimal() for name in names):
        return Ranks()
    return Ranks(*(int(os.environ[name]) for name in names))


def invocation() -> str | None:
    """The name of what started this process and, after a failure, starts it again; None for a command just typed."""
    env = os.environ
    if "LABBOOK_INVOCATION" in env:
        return env["LABBOOK_INVOCATION"]
    if "SLURM_JOB_ID" in env:
        return f"slurm {env['SLURM_JOB_ID']}"
    if "TORCHELASTIC_RUN_ID" in env:
        return f"torchrun {env['TORCHELASTIC_RUN_ID']}"
    return None


def is_restart() -> bool:
    """Whether the same command may have been at work before: a requeued job, a restart by torchrun."""
    counts = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
    return "LABBOOK_INVOCATION" in os.environ or any(os.environ.get(name, "0") != "0" for name in counts)


ALONE = Ranks()
