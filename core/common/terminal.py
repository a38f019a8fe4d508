"""Printing that cannot stop a run: a closed pipe or a full disk behind standard output ends the printing alone."""

from __future__ import annotations

import os
import sys


def tell(line: str = "") -> None:
    """Print a line at once; print nothing once standard output is closed."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        mute()


def mute() -> None:
    """Discard standard output, so that neither the next line nor the exit fails on it."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the process


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()
