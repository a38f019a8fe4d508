"""`python -m experiments`: what there is to run, and the best on record."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.part import Mistakes
from core.record import IMPORTED, SUMMARY, runs_of


@dataclass(frozen=True)
class Entry:
    """One experiment, in the words of its docstring."""

    name: str
    question: str
    expected: str

    @property
    def command(self) -> str:
        return f"python -m experiments.{self.name}"


def entries() -> Iterator[Entry]:
    """Every experiment, by name."""
    package = importlib.import_module("experiments")
    for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        if found.ispkg:
            try:
                text = importlib.import_module(f"experiments.{found.name}").__doc__ or ""
            except Exception as error:  # one experiment that is being written must not hide the others
                reason = str(error).splitlines()[0]
                text = f"cannot be read: {type(error).__name__}: {reason}"
            expected = re.search(r"^Expected: (.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
            yield Entry(found.name, text.strip().split("\n")[0], " ".join(expected[1].split()) if expected else "")


def best_on_record(name: str) -> tuple[float, str] | None:
    """(best test accuracy of a finished run, its id); smoke runs, those of a limited set and imported ones apart."""
    found = []
    for run in runs_of(name):
        try:
            summary = json.loads((run.folder / SUMMARY).read_text())
        except (OSError, ValueError):  # the journal still has it; a listing is no place to fail
            continue
        own = summary["status"] == "FINISHED" and summary["whole"] and not summary.get(IMPORTED)
        if own and "test/accuracy" in summary["metrics"]:
            found.append((summary["metrics"]["test/accuracy"], run.id))
    return max(found, default=None)


def main(words: Sequence[str]) -> int:
    """labbook list. Raises Mistakes."""
    if words:
        raise Mistakes([f"list takes no {words[0]}"])
    show()
    return 0


def show() -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    for heading in ("question", "command", "expected", "best on record"):
        table.add_column(heading, overflow="fold")
    for entry in entries():
        best = best_on_record(entry.name)
        shown = f"{best[0]:.2%}\n{best[1]}" if best else "not run here yet"
        table.add_row(entry.question, entry.command, entry.expected, shown)
    Console().print(table)
