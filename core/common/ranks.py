"""The rank of this process and the job that started it, from environment variables. Nothing heavy is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass

RENDEZVOUS = "LABBOOK_RENDEZVOUS"  # where processes meet, without torchrun
PROCESSES = "LABBOOK_PROCESSES"  # set by --processes N for the processes that it starts

NAMES: tuple[str, ...] = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))


@dataclass(frozen=True)
class Ranks:
    """The rank of a process among the `ranks` processes of a run, and its local rank on this machine."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1


def ranks_here() -> Ranks:
    """Returns the ranks that torchrun, `labbook launch` or srun set; those of a single process without them.

    With LABBOOK_RENDEZVOUS, one process for each machine is assumed unless LOCAL_RANK and LOCAL_WORLD_SIZE say more; if
    it is mpi://, the variables are those of Open MPI.
    """
    env: dict[str, str] = dict(os.environ)
    names = OPEN_MPI if env.get(RENDEZVOUS) == "mpi://" else NAMES
    if RENDEZVOUS in env:
        env = {names[2]: "0", names[3]: "1", **env}
    if not all(env.get(name, "").isdecimal() for name in names):
        return Ranks()
    return Ranks(*(int(env[name]) for name in names))


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
