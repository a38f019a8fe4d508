"""labbook list, python -m experiments: every experiment with its result, its best run on record and its question."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from core.catalogue import entries
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell
from core.record.run import IMPORTED, read_summary
from core.runs.trained import Run

WIDTH = 80  # columns
LEGEND = (
    "",
    "result: test accuracy in the experiment's docstring, mean +- 95 % interval",
    "best: highest test accuracy of a run on record; its id follows the question",
    "",
    "labbook train NAME           trains one (also: python -m experiments.NAME)",
    "labbook train NAME --help    its question in full, its commands and its options",
)


def best_on_record(name: str) -> tuple[float, str] | None:
    """Returns (best test accuracy, id) of the finished runs, without smoke runs, limited data and imported runs."""
    found = []
    for run in Run.of_experiment(name):
        try:
            summary = read_summary(run)
        except UserError:  # the list must not fail because of one run
            continue
        own = summary and summary["status"] == "FINISHED" and summary["whole"] and not summary.get(IMPORTED)
        if summary and own and "test/accuracy" in summary["metrics"]:
            found.append((summary["metrics"]["test/accuracy"], run.id))
    return max(found, default=None)


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    VerbParser("list", __doc__).parse_args(list(words))
    show()
    return 0


def show() -> None:
    """Print the table, at most 80 columns wide."""
    found = [(entry, best_on_record(entry.name)) for entry in entries()]
    cells = [("name", "result", "best", "question", "")]
    for entry, best in found:
        shown = f"{best[0]:.2%}" if best else "-"
        cells.append((entry.name, result(entry.expected), shown, entry.question, best[1] if best else ""))
    widths = [max(len(row[i]) for row in cells) + 2 for i in range(3)]
    for *row, question, run in cells:
        left = "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        below = [*textwrap.wrap(question, WIDTH - sum(widths), break_on_hyphens=False), *([run] if run else [])]
        tell(left + below[0])
        for line in below[1:]:
            tell(" " * sum(widths) + line)
    for line in LEGEND:
        tell(line)


def result(expected: str) -> str:
    """Returns the first accuracy in an experiment's docstring, such as 99.28 % +- 0.31; a dash without any."""
    found = re.match(r"\d+(\.\d+)? %( \+- \d+(\.\d+)?)?", expected)
    return found[0] if found else "-"
