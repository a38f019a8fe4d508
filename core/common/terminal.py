"""Printing that cannot stop a run: if standard output is closed or its disk is full, only the printing stops."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

from core.common.text import printable

if TYPE_CHECKING:
    from rich.console import Console


def tell(line: str = "") -> None:
    """Print a line and flush; control characters are escaped. Once standard output is closed, nothing is printed."""
    try:
        _write(line, sys.stdout)
    except (OSError, ValueError):
        mute()


def complain(line: str) -> None:
    """Print a line to standard error and flush; control characters are escaped."""
    _write(line, sys.stderr)


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
    from rich.text import Text

    class Safe(Console):
        """Shows strings as they are: control characters are escaped, and [names] in brackets are no markup."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text, self.encoding), **options)

    found = Safe(markup=False, emoji=False)
    return found if found.is_terminal or found.is_jupyter else Safe(markup=False, emoji=False, width=width)


def _write(line: str, stream: TextIO | None) -> None:
    if stream is not None:
        stream.write(printable(line, _encoding(stream)) + "\n")  # in one piece: other threads print, too
        stream.flush()


def _encoding(stream: TextIO | None) -> str | None:
    return getattr(stream, "encoding", None) or "utf-8"
