"""labbook list, python -m experiments: every experiment with its result, its best run on record and its question."""

from __future__ import annotations

import importlib
import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from core.catalogue import Entry, entries, package_of
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell
from core.record.labels import labels
from core.record.run import IMPORTED, RECORD, read_record
from core.record.summary import read_summary
from core.runs.trained import Run

WIDTH = 80  # columns
LEGEND = (
    "",
    "result: test accuracy in the experiment's docstring, mean +- 95 % interval",
    "best: highest test accuracy on record with the declared data and model, and id",
    "",
    "labbook train NAME           trains one (also: python -m experiments.NAME)",
    "labbook train NAME --help    its question in full, its commands and its options",
)


def best_on_record(name: str) -> tuple[float, str] | None:
    """Returns (best test accuracy, id) of the finished runs with the declared kind of data and model, without smoke
    runs, limited data, and imported or archived runs."""
    found, declared = [], _kinds(name)
    for run in Run.of_experiment(name):
        try:
            summary = None if labels(run.folder).archived else read_summary(run)
            own = summary and summary["status"] == "FINISHED" and summary["whole"] and not summary.get(IMPORTED)
            kinds = _kinds_of(run)
            fits = None in (kinds, declared) or kinds == declared
            if summary and own and fits and "test/accuracy" in summary["metrics"]:
                found.append((summary["metrics"]["test/accuracy"], run.id))
        except (UserError, KeyError, TypeError):  # the list must not fail because of one run
            continue
    return max(found, default=None)


def _kinds(name: str) -> tuple[str, str] | None:
    """Names of the classes of data and model that an experiment declares; None if it cannot be imported."""
    try:
        experiment = importlib.import_module(package_of(name)).EXPERIMENT
        return type(experiment.data).__name__, type(experiment.model).__name__
    except Exception:  # an experiment that is being written must not hide the others
        return None


def _kinds_of(run: Run) -> tuple[str, str] | None:
    # without the digest in the journal, whose reading would take too long for a list of many runs
    declaration = read_record(run.folder / "artifacts" / RECORD).get("declaration")
    if not declaration:
        return None
    data, model = (str(declaration[part]["class"]).rpartition(".")[2] for part in ("data", "model"))
    return data, model


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("list", __doc__)
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    if parser.parse_args(list(words)).json:
        print(json.dumps([as_object(entry) for entry in entries()], indent=1))
    else:
        show()
    return 0


def as_object(entry: Entry) -> dict[str, Any]:
    """An experiment as JSON; best is the highest test accuracy on record, with its run."""
    best = best_on_record(entry.name)
    return {
        "experiment": entry.name,
        "question": entry.question,
        "expected": entry.expected,
        "best": best[0] if best else None,
        "run": best[1] if best else None,
    }


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
