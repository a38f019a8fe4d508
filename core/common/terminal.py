"""Printing that cannot stop a run: if standard output is closed or its disk is full, only the printing stops."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def tell(line: str = "") -> None:
    """Print a line and flush. Once standard output is closed, nothing is printed."""
    try:
        print(line, flush=True)
    except UnicodeEncodeError:  # a name that is not UTF-8, or a terminal that is not
        encoding = sys.stdout.encoding or "ascii"
        print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except (OSError, ValueError):
        mute()


def mute() -> None:
    """Discard standard output, so that neither further printing nor the exit of the process fails."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it lives as long as the process


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def is_notebook() -> bool:
    """Whether this is a notebook in which rich can update what it shows, for which it needs ipywidgets."""
    return "ipykernel" in sys.modules and find_spec("ipywidgets") is not None


def console(width: int = 160) -> Console:
    """Returns a rich console on standard output. width: used if it is not a terminal, so that names are not cut."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=width)
