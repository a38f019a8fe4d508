"""labbook compare NAME|RUN ...: compare settings over their seeds, with confidence intervals and paired tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from core.common import paths
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import console, tell
from core.compare import looks
from core.compare.comparison import Comparison, compare
from core.compare.forest_plot import KINDS, save
from core.compare.groups import unfinished_reason
from core.compare.page import page
from core.compare.runs import FINISHED, rows
from core.compare.statistics import Difference
from core.compare.table import HEADINGS, as_csv, as_json, in_percent, latex, markdown, sentences, table, what
from core.record.ledger import readings

MOST_LEFT = 20  # skipped runs that are listed
COSTS = ("time", "images/s", "parameters")  # columns that are left out first on a narrow terminal
LABEL = 24  # columns that are enough for the names of settings


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("compare", __doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME|RUN", help="experiments, with all their runs, or single runs")
    parser.add_argument("--metric", default="val/accuracy", help="final metric that is compared")
    parser.add_argument("--higher-is-better", action="store_true", help="larger values of the metric are better")
    parser.add_argument("--lower-is-better", action="store_true", help="smaller values of the metric are better")
    parser.add_argument("--by", metavar="FIELD", help="group runs by this field alone, whatever else differs")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="FIELD",
        help="ignore this field when runs are grouped; may be repeated",
    )
    parser.add_argument(
        "--baseline",
        metavar="SETTING",
        help="setting or run that the others are compared with; default: the base of the experiment",
    )
    parser.add_argument(
        "--equivalent",
        type=float,
        metavar="MARGIN",
        help="also test whether settings are within this margin of the baseline; in points for accuracies",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--latex", type=Path, metavar="FILE", help="write a table for LaTeX (booktabs)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table as CSV, unrounded")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as Markdown")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with curves and confusion matrices")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="write a forest plot, .svg or .png")
    parser.add_argument("--anyway", action="store_true", help="compare even if the runs used different data")
    given = parser.parse_args(list(words))
    if given.higher_is_better and given.lower_is_better:
        raise UserError(["--higher-is-better, --lower-is-better: choose one of them"])
    better = given.higher_is_better - given.lower_is_better or None
    if given.picture and given.picture.suffix not in KINDS:
        raise UserError([f"--picture {given.picture}: should end in {' or '.join(KINDS)}"])
    found, left = rows(given.runs)
    if not any(row.status == FINISHED for row in found):
        left = [*(f"{row.id}: {unfinished_reason(row)}" for row in found), *left]
        raise UserError([f"{' '.join(given.runs)}: no finished run to compare", *left])
    known = looks.read(paths.looks())
    margin = _margin(given.equivalent, given.metric)
    comparison = compare(
        found, given.metric, given.by, given.baseline, given.anyway, given.ignore, better, known, margin
    )
    _record(comparison, known)
    if given.json:
        print(as_json(comparison), end="")
    else:
        show(comparison, left)
        _show_readings(comparison)
    say = (lambda line: None) if given.json else tell
    for path, text in ((given.csv, as_csv), (given.markdown, markdown), (given.html, page), (given.latex, latex)):
        if path:
            _write(path, partial(path.write_text, text(comparison), "utf-8", "backslashreplace"), say)
    if given.picture:
        _write(given.picture, partial(save, comparison, given.picture), say)
    return 0


def _margin(given: float | None, metric: str) -> float | None:
    """The margin of equivalence in the unit of the metric. Raises UserError."""
    if given is None:
        return None
    if not 0 < given < math.inf:
        raise UserError([f"--equivalent {given:g}: should be more than 0"])
    return given / 100 if in_percent(metric) else given


def _record(found: Comparison, known: Mapping[looks.Pair, Sequence[Difference]]) -> None:
    """Put this look on record, before its result is shown."""
    try:
        looks.write(paths.looks(), found.looks, known)
    except OSError as error:
        lost = "this look is not on record, so that a later one cannot take it into account"
        tell(f"warning: {paths.looks()}: {error.strerror}; {lost}")


def _show_readings(found: Comparison) -> None:
    """Print how often the test splits of a comparison have been read, if it is of a test metric."""
    if not found.metric.startswith("test/"):
        return
    known = readings()
    for digest in sorted({row.data for group in found.groups for row in group.rows if row.data in known}):
        one = known[digest]
        times = "once" if one.total == 1 else f"{one.total:,} times"
        tell(f"the test split of {one.name} has been read {times} (labbook ledger)")


def show(found: Comparison, left: Sequence[str] = ()) -> None:
    """Print the table and the sentences."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(
        title=f"{found.metric}, mean and 95 % interval of n {what(found)}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    cells = table(found)
    used = [i for i in range(len(HEADINGS) - 1) if any(row[i] for row in cells)]
    shown = console()
    while len(used) > 2 and _wide(cells, used) > shown.width:
        used.remove(next((i for i in reversed(used) if HEADINGS[i] in COSTS), used[-1]))
    for i in used:
        grid.add_column(HEADINGS[i], overflow="fold", no_wrap=i > 0, justify="right" if i else "left")
    for row in cells:
        grid.add_row(*(row[i] for i in used))
    shown.print(grid, highlight=False)
    for label, *_, apart in cells if len(found.differing) > 1 else ():
        if apart:
            tell(f"{label}: {apart}")
    tell()
    for line in [*sentences(found), *found.notes]:
        tell(line)
    for line in left[:MOST_LEFT]:
        tell(f"skipped: {line}")
    if len(left) > MOST_LEFT:
        tell(f"skipped: {len(left) - MOST_LEFT} more")


def _wide(cells: Sequence[Sequence[str]], used: Sequence[int]) -> int:
    """The width of a table, in which the first column may be folded to LABEL."""
    widths = [max(len(line) for row in (HEADINGS, *cells) for line in (row[i].splitlines() or [""])) for i in used]
    return min(widths[0], LABEL) + sum(widths[1:]) + 3 * len(used)


def _write(path: Path, write: Callable[[], object], say: Callable[[str], object]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError([f"{path}: {error.strerror}"]) from None
    say(f"written: {path}")
