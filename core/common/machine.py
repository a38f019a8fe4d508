"""The resources that this process may use. Imports nothing heavy."""

from __future__ import annotations

import math
import os
from pathlib import Path

# control groups of Linux
OWN_GROUP = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """CPU cores that this process may use: those of its CPU affinity (on systems without one, such as macOS, all), at
    most the CPU quota of its control group, which is how containers and Slurm limit a job."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, math.ceil(min(_quotas(), default=cores))))


def threads_each(processes: int = 1) -> int:
    """CPU threads of each of `processes` on this machine: OMP_NUM_THREADS if it is set, otherwise an equal share of the
    usable cores.

    torchrun sets OMP_NUM_THREADS=1 for several processes if nobody has set it, so there a 1 is not what a user chose.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list is for nested parallelism
    if text.isdecimal() and int(text) > (1 if processes > 1 else 0):
        return int(text)
    return max(1, usable_cores() // processes)


def _quotas() -> list[float]:
    """CPU quotas of the control group of this process and of those above it, in cores (Linux, cgroup v2 or v1)."""
    try:
        own = [line.split(":", 2)[2] for line in OWN_GROUP.read_text().splitlines() if line[:2] == "0:"]
    except (OSError, IndexError):
        return []
    inner = GROUPS / (own[0].lstrip("/") if own else "")
    found = []
    for folder in (inner, *inner.parents):
        if folder != GROUPS and GROUPS not in folder.parents:
            break
        found.append(_quota(folder / "cpu.max"))
    found.append(_quota(GROUPS / "cpu" / "cpu.cfs_quota_us", GROUPS / "cpu" / "cpu.cfs_period_us"))
    return [quota for quota in found if quota is not None]


def _quota(*files: Path) -> float | None:
    """Quota / period in these files; None if they do not exist or there is no limit."""
    try:
        quota, period = map(float, " ".join(file.read_text() for file in files).split())
    except (OSError, ValueError):  # "max" instead of a number: no limit
        return None
    return quota / period if quota > 0 and period > 0 else None
