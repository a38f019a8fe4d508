"""labbook runs [EXPERIMENT ...]: list the runs on record, the latest first.

Archived runs are left out. In Python, core.runs_frame() is the same list as a pandas DataFrame.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import complain, console, tell
from core.common.text import suggestion
from core.compare.listing import STATUSES, Listed, Wanted, frame, listed, since
from core.compare.table import format_value

SHOWN = 30  # runs in the table
METRICS = ("val/accuracy", "test/accuracy")


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("runs", __doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="only runs of these experiments")
    parser.add_argument("--variant", metavar="NAME", help="only runs of this variant; base: of none")
    parser.add_argument("--status", action="append", default=[], metavar="STATUS", help=", ".join(STATUSES))
    parser.add_argument(
        "--tag", action="append", default=[], metavar="NAME[=TEXT]", help="only runs with this tag; may be repeated"
    )
    parser.add_argument("--since", metavar="TIME", help="only runs begun since 2026-11-30, or 7d, 12h, 30m ago")
    parser.add_argument("--archived", action="store_true", help="also archived runs")
    parser.add_argument(
        "--last", type=int, metavar="N", help=f"only the latest N runs; {SHOWN} in the table if not given"
    )
    parser.add_argument(
        "--metric", action="append", default=[], metavar="NAME", help="metric in the table; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print JSON with all fields and metrics")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a table with all fields and metrics")
    given = parser.parse_args(list(words))
    statuses = [each.upper() for each in given.status]
    unknown = [each for each in given.status if each.upper() not in STATUSES]
    wrong = [f"--status {each}: unknown status{suggestion(each, STATUSES)}" for each in unknown]
    if given.last is not None and given.last < 1:
        wrong.append("--last: should be a positive integer")
    if wrong:
        raise UserError(wrong)
    tags = {name: text if equals else None for name, equals, text in (word.partition("=") for word in given.tag)}
    start = since(given.since) if given.since else None
    wanted = Wanted(given.experiments, given.variant, statuses, tags, start, given.archived)
    skipped: list[str] = []
    found = listed(wanted, skipped)
    if given.json:
        # one object a line: thousands of runs are printed as they are read
        separator = "[\n"
        for run in islice(found, given.last):
            sys.stdout.write(f"{separator}{json.dumps(run.as_object(), allow_nan=False, default=str)}")
            separator = ",\n"
        print("[]" if separator == "[\n" else "\n]")
    elif given.csv:
        _write(frame(islice(found, given.last)).to_csv(), given.csv)
    else:
        _show(list(islice(found, (given.last or SHOWN) + 1)), given.last or SHOWN, given.metric or METRICS)
    for line in skipped:
        complain(f"skipped: {line}")
    return 0


def _show(runs: Sequence[Listed], most: int, metrics: Sequence[str]) -> None:
    """Print a table of at most `most` runs."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if not runs:
        tell("no such run is on record")
        return
    rows = [_cells(run, metrics) for run in runs[:most]]
    headings = ("run", "variant", "status", *metrics, "name", "tags")
    grid = Table(box=SIMPLE_HEAD)
    used = [place for place in range(len(headings)) if any(row[place] for row in rows)]
    for place in used:
        number = headings[place] in metrics
        grid.add_column(headings[place], overflow="fold", no_wrap=not place, justify="right" if number else "left")
    for row in rows:
        grid.add_row(*(row[place] for place in used))
    console().print(grid, highlight=False)
    if len(runs) > most:
        tell(f"the latest {most}; --last N shows more, and --json and --csv give all")


def _cells(run: Listed, metrics: Sequence[str]) -> list[str]:
    values = [format_value(name, run.metrics[name]) if name in run.metrics else "" for name in metrics]
    what = run.kind if run.kind != "run" else ""
    status = f"{run.status}{f' ({what})' if what else ''}{', archived' if run.archived else ''}"
    tags = ", ".join(f"{name}={text}" for name, text in run.tags.items())
    return [run.run, run.variant, status, *values, run.name, tags]


def _write(text: str, path: Path) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise UserError([f"{path}: {error.strerror}"]) from None
    tell(f"written: {path}")
