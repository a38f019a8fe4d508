"""labbook figures: update the numbers and pictures in the READMEs from the record, and name the runs that are missing.

The exit status is 0 if all of them agree with the record and 1 if a run is missing (its figure is left as it is) or,
with --check, if one is out of date.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from core.common import paths
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.files import write_atomic
from core.common.terminal import tell
from core.compare import forest_plot
from core.compare.comparison import Comparison
from core.compare.runs import Row, rows_of
from core.compare.table import markdown
from core.figures.markers import Marker, markers, replaced
from core.figures.render import MissingRuns, figure_text, recorded

Reader = Callable[[str], Sequence[Row]]


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError for markers with errors."""
    parser = VerbParser("figures", __doc__)
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="Markdown files; default: README.md and those of the experiments",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; list what is out of date or missing")
    given = parser.parse_args(list(words))
    files = given.files or pages()
    found = _all_markers(files)
    read = cache(lambda experiment: rows_of(experiment)[0])
    counts = [_renew(path, inside, read, given.check) for path, inside in zip(files, found, strict=True)]
    total = sum(len(inside) for inside in found)
    changed, lacking = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0)
    out = "out of date" if given.check else "changed"
    tell(f"{total - lacking} of {total} figures and pictures are on record, {changed} {out}; {lacking} lack runs")
    return 1 if lacking or (given.check and changed) else 0


def pages() -> list[Path]:
    """Returns the paths of the README and of the experiments' READMEs."""
    return [paths.ROOT / "README.md", *sorted((paths.ROOT / "experiments").glob("*/README.md"))]


def _all_markers(files: Sequence[Path]) -> list[list[Marker]]:
    """The markers of each file. Raises UserError with the errors of all files."""
    found: list[list[Marker]] = []
    wrong: list[str] = []
    for path in files:
        try:
            found.append(markers(path))
        except UserError as mistakes:
            wrong += mistakes.lines
    if wrong:
        raise UserError(wrong)
    return found


def _renew(path: Path, inside: Sequence[Marker], read: Reader, check: bool) -> tuple[int, int]:
    """Rewrite one file and its pictures. Returns (number of changed markers, number of markers that lack runs)."""
    changes: list[tuple[Marker, str]] = []
    lacks: dict[str, None] = {}  # two figures in one line may lack the same runs
    drawn = lacking = 0
    for marker in inside:
        try:
            comparison = recorded(marker, read)
        except MissingRuns as missing:
            lacking += 1
            lacks |= dict.fromkeys(f"{marker.place}: {line}" for line in str(missing).splitlines())
            continue
        if marker.picture:
            drawn += _redraw(marker, path.parent / marker.text, comparison, check)
        elif (new := figure_text(comparison, marker.text)) != marker.text:
            changes.append((marker, new))
            tell(f"{marker.place}: {marker.settings[0].title} {marker.metric}: {marker.text} -> {new}")
    for line in lacks:
        tell(line)
    if changes and not check:
        write_atomic(path, replaced(path.read_text(), changes))
    return len(changes) + drawn, lacking


def _redraw(marker: Marker, picture: Path, comparison: Comparison, check: bool) -> bool:
    """Draw the picture again if it is missing or out of date. Returns whether it was."""
    if forest_plot.embedded_table(picture) == markdown(comparison):
        return False
    tell(f"{marker.place}: {marker.text} {'is out of date' if check else 'drawn again'}")
    if not check:
        forest_plot.save(comparison, picture)
    return True
