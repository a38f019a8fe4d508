"""The resources that this process may use. Imports nothing heavy."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """CPU cores that this process may use; all cores on systems without CPU affinity, such as macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
