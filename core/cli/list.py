"""`python -m experiments`: what there is to run, and the best on record."""

from __future__ import annotations

import json
from collections.abc import Sequence

from core.catalogue import entries
from core.common.errors import UserError
from core.record.run import IMPORTED, SUMMARY
from core.runs.trained import Run


def best_on_record(name: str) -> tuple[float, str] | None:
    """(best test accuracy of a finished run, its id); smoke runs, those of a limited set and imported ones apart."""
    found = []
    for run in Run.of_experiment(name):
        try:
            summary = json.loads((run.folder / SUMMARY).read_text())
        except (OSError, ValueError):  # the journal still has it; a listing is no place to fail
            continue
        own = summary["status"] == "FINISHED" and summary["whole"] and not summary.get(IMPORTED)
        if own and "test/accuracy" in summary["metrics"]:
            found.append((summary["metrics"]["test/accuracy"], run.id))
    return max(found, default=None)


def main(words: Sequence[str]) -> int:
    """labbook list. Raises UserError."""
    if words:
        raise UserError([f"list takes no {words[0]}"])
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
