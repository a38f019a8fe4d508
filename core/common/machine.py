"""What the machine grants this process. Imports nothing heavy."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """CPU cores that this process may use; those of the machine where the system keeps no such set, as macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
