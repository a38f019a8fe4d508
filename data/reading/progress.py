"""Messages and progress bars while data are downloaded and decoded, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.common.terminal import complain


def say(line: str) -> None:
    """Print a line to standard error; standard output is for results."""
    complain(line)


@contextmanager
def bar(text: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Context manager with a progress bar; yields a function to call with each increment.

    unit: "bytes", or what is counted. Without a terminal, only one line is printed.
    """
    if not sys.stderr.isatty():
        say(text)
        yield lambda amount: None
        return
    from rich import progress as rich_progress
    from rich.console import Console

    counted: tuple[rich_progress.ProgressColumn, ...] = (rich_progress.MofNCompleteColumn(),)
    if unit == "bytes":
        counted = (rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn())
    columns = (rich_progress.TextColumn("{task.description}", markup=False), rich_progress.BarColumn(), *counted)
    left = rich_progress.TimeRemainingColumn()
    with rich_progress.Progress(*columns, left, console=Console(stderr=True)) as shown:
        task = shown.add_task(text, total=total)
        yield lambda amount: shown.advance(task, amount)


def printable(name: str) -> str:
    """An untrusted name, safe to print: control characters and unencodable characters are escaped."""
    return name if name.isprintable() else ascii(name)


def first(lines: list[str], shown: int = 50) -> list[str]:
    """The first lines, and a line with the number of further ones."""
    rest = len(lines) - shown
    return lines if rest <= 0 else [*lines[:shown], f"... and {rest:,} more"]
