"""What a user sees while data are fetched and decoded. On stderr: stdout belongs to the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def say(line: str) -> None:
    """A line on standard error: standard output is for results."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def bar(text: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """A function to call with each further amount done. unit: "bytes" or what is counted. No terminal: one line."""
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
    """A name that others chose, safe to print: no control characters, nothing the terminal cannot encode."""
    return name if name.isprintable() else ascii(name)


def first(lines: list[str], shown: int = 50) -> list[str]:
    """The first lines, then how many more there are."""
    rest = len(lines) - shown
    return lines if rest <= 0 else [*lines[:shown], f"... and {rest:,} more"]
