"""labbook compare NAME|RUN ...: compare settings over their seeds, with confidence intervals and paired tests.

With answers of all runs on record, the intervals of accuracy, nll and brier are over seeds and images (--unit). With
--datasets, settings are ranked over several data sets. With --json, standard output is JSON alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from core.common import paths
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import complain, console, tell
from core.compare import datasets, looks
from core.compare.comparison import UNITS, Comparison, compare
from core.compare.forest_plot import KINDS, save
from core.compare.groups import unfinished_reason
from core.compare.objects import as_json, ranking_json
from core.compare.page import page
from core.compare.runs import FINISHED, Row, rows
from core.compare.statistics import Difference
from core.compare.table import (
    as_csv,
    foot,
    format_value,
    headings,
    in_percent,
    latex,
    markdown,
    sentences,
    table,
    what,
)
from core.inference.scores import scores
from core.record.ledger import Readings, readings

MOST_LEFT = 20  # skipped runs that are listed
COSTS = ("time", "images/s", "parameters")  # columns that are left out first on a narrow terminal
LABEL = 24  # columns that are enough for the names of settings
OF_A_TABLE = ("by", "baseline", "equivalent", "unit", "latex", "csv", "markdown", "html", "picture")  # not of ranks


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
    parser.add_argument(
        "--unit", choices=UNITS, help="what intervals are over; default: both, if all runs have answers, else seeds"
    )
    parser.add_argument(
        "--datasets",
        action="store_true",
        help="rank the settings over the data sets of the runs, three or more settings",
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
    if given.datasets and (other := next((name for name in OF_A_TABLE if getattr(given, name) is not None), None)):
        raise UserError([f"--datasets: not together with --{other}"])
    with _told(given.json) as warnings:
        found, left = rows(given.runs)
        if not any(row.status == FINISHED for row in found):
            left = [*(f"{row.id}: {unfinished_reason(row)}" for row in found), *left]
            raise UserError([f"{' '.join(given.runs)}: no finished run to compare", *left])
        result = datasets.ranked(found, given.metric, given.anyway, given.ignore, better) if given.datasets else None
        comparison = None if result else _compared(given, found, better)
    if result:
        print(ranking_json(result, left, warnings), end="") if given.json else _show_ranks(result, left)
    elif comparison:
        _show(given, comparison, left, warnings)
    return 0


def _compared(given: Any, found: Sequence[Row], better: int | None) -> Comparison:
    """The comparison, whose look is put on record before its result is shown."""
    known = looks.read(paths.looks())
    margin = _margin(given.equivalent, given.metric)
    settings = (given.metric, given.by, given.baseline, given.anyway, given.ignore, better)
    comparison = compare(found, *settings, known, margin, given.unit, scores)
    _record(comparison, known)
    return comparison


def _show(given: Any, comparison: Comparison, left: Sequence[str], warnings: list[str]) -> None:
    """Print a comparison, and write it to the files that are asked for."""
    if given.json:
        with _told(True) as more:
            read = _readings(comparison)
        print(as_json(comparison, left, [*warnings, *more], read), end="")
    else:
        show(comparison, left)
        for one in _readings(comparison):
            times = "once" if one.total == 1 else f"{one.total:,} times"
            tell(f"the test split of {one.name} has been read {times} (labbook ledger)")
    say = (lambda line: None) if given.json else tell
    for path, text in ((given.csv, as_csv), (given.markdown, _markdown), (given.html, page), (given.latex, latex)):
        if path:
            _write(path, partial(path.write_text, text(comparison), "utf-8", "backslashreplace"), say)
    if given.picture:
        _write(given.picture, partial(save, comparison, given.picture), say)


@contextmanager
def _told(apart: bool) -> Iterator[list[str]]:
    """Lines that are told meanwhile; if they are to be kept apart from standard output, they go to standard error."""
    lines: list[str] = []
    if not apart:
        yield lines
        return
    text = io.StringIO()
    try:
        with redirect_stdout(text):
            yield lines
    finally:
        lines += text.getvalue().splitlines()
        for line in lines:
            complain(line)


def _markdown(comparison: Comparison) -> str:
    return f"{markdown(comparison)}- {foot(comparison)}\n"


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


def _readings(found: Comparison) -> list[Readings]:
    """How often the test splits of a comparison have been read, if it is of a test metric; empty with a warning, if
    that cannot be read."""
    if not found.metric.startswith("test/"):
        return []
    try:
        known = readings()
    except UserError as error:
        tell(f"warning: {error}; how often the test split has been read is not known")
        return []
    return [known[digest] for digest in sorted({r.data for g in found.groups for r in g.rows if r.data in known})]


def show(found: Comparison, left: Sequence[str] = ()) -> None:
    """Print the table and the sentences."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(
        title=f"{found.metric}, mean and 95 % interval of n {what(found)}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    cells, names = table(found), headings(found)
    used = [i for i in range(len(names) - 1) if any(row[i] for row in cells)]
    shown = console()
    while len(used) > 2 and _wide([names, *cells], used) > shown.width:
        used.remove(next((i for i in reversed(used) if names[i] in COSTS), used[-1]))
    for i in used:
        grid.add_column(names[i], overflow="fold", no_wrap=i > 0, justify="right" if i else "left")
    for row in cells:
        grid.add_row(*(row[i] for i in used))
    shown.print(grid, highlight=False)
    for label, *_, apart in cells if len(found.differing) > 1 else ():
        if apart:
            tell(f"{label}: {apart}")
    tell()
    for line in [*sentences(found), foot(found), *found.notes]:
        tell(line)
    _show_skipped(left)


def _show_ranks(found: datasets.Ranking, left: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(title=f"{found.metric}, means and mean ranks over data sets", title_justify="left", box=SIMPLE_HEAD)
    grid.add_column("setting", overflow="fold")
    for name in (*found.data, "mean rank"):
        grid.add_column(name, justify="right", overflow="fold")
    for label, means, rank in zip(found.settings, found.means, found.ranks, strict=True):
        grid.add_row(label, *(format_value(found.metric, mean) for mean in means), f"{rank:.2f}")
    console().print(grid, highlight=False)
    for line in [*datasets.sentences(found), *found.notes]:
        tell(line)
    _show_skipped(left)


def _show_skipped(left: Sequence[str]) -> None:
    for line in left[:MOST_LEFT]:
        tell(f"skipped: {line}")
    if len(left) > MOST_LEFT:
        tell(f"skipped: {len(left) - MOST_LEFT} more")


def _wide(cells: Sequence[Sequence[str]], used: Sequence[int]) -> int:
    """The width of a table with its headings, in which the first column may be folded to LABEL."""
    widths = [max(len(line) for row in cells for line in (row[i].splitlines() or [""])) for i in used]
    return min(widths[0], LABEL) + sum(widths[1:]) + 3 * len(used)


def _write(path: Path, write: Callable[[], object], say: Callable[[str], object]) -> None:
    try:
        write()
    except OSError as error:
        raise UserError([f"{path}: {error.strerror}"]) from None
    say(f"written: {path}")
