"""labbook import PATH ...: add old runs from TensorBoard events or CSV logs to the record.

An imported run is a run like any other: labbook compare compares it, MLflow shows it. Usual names of metrics are
renamed to those of labbook, and accuracies are scaled to 0..1; a table shows the name and value of each.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.common import paths
from core.common.arguments import Words
from core.common.errors import UserError
from core.common.terminal import console, tell
from core.common.text import suggestion
from core.importing.log import Log
from core.importing.metric_names import Name, is_share, named, valid
from core.importing.sources import Source, find
from core.importing.writer import Old, earlier, on_record, write
from core.record import journal
from core.record.run import RecordedRun


@dataclass(frozen=True)
class Asked:
    """What the command line says. rename: old -> new.  data: a digest, or a name of the user's own."""

    rename: Mapping[str, str]
    percents: Collection[str]
    experiment: str | None = None
    data: str | None = None


def main(words: Sequence[str]) -> int:
    """Exit status 0. Raises UserError."""
    parser = Words("import", __doc__)
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="folder or file of a run, or a folder of many runs"
    )
    parser.add_argument("--experiment", metavar="NAME", help="experiment of the runs; default: the name of the path")
    parser.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="rename a metric; may be repeated"
    )
    parser.add_argument(
        "--percent",
        action="append",
        default=[],
        metavar="OLD",
        help="metric in percent (0..100), which is divided by 100; may be repeated",
    )
    parser.add_argument("--data", metavar="RUN|NAME", help="the data are those of this run, or have this name")
    parser.add_argument("--dry-run", action="store_true", help="show what would be imported and import nothing")
    given = parser.parse_args(list(words))
    if given.experiment is not None and given.experiment != (fit := _folder_name(given.experiment)):
        raise UserError([f"--experiment {given.experiment}: is not a valid folder name; use {fit}"])
    asked = Asked(_renames(given.rename), frozenset(given.percent), given.experiment, _data(given.data))
    olds, left = gather(given.paths, asked)
    _show(olds)
    runs = list(_each(olds, given.dry_run))
    for line in left:
        tell(f"left out: {line}")
    if runs:
        _send(runs)
    return 0


def gather(places: Iterable[Path], asked: Asked) -> tuple[list[Old], list[str]]:
    """(old runs, read and named, and a line for each that was left out). Raises UserError."""
    logs: list[tuple[Source, str, Log, str]] = []
    left: list[str] = []
    for place in places:
        sources, aside = find(place)
        left += aside
        experiment = asked.experiment or _experiment(place)
        for source in sources:
            try:
                digest = source.digest
                logs.append((source, digest, source.read(), experiment))
            except UserError as mistakes:
                left += mistakes.lines
            except OSError as error:
                left.append(f"{source.path}: {error.strerror}")
    if not logs:
        raise UserError(left)
    _known([*asked.rename, *asked.percents], {point.name for _, _, log, _ in logs for point in log.points})
    return [
        Old(source, digest, log, _named(source, log, asked), experiment, asked.data)
        for source, digest, log, experiment in logs
    ], left


def _named(source: Source, log: Log, asked: Asked) -> tuple[Name, ...]:
    """Raises UserError for an accuracy that is none."""
    names = named({point.name for point in log.points}, asked.rename, asked.percents)
    for name in names:
        most = max(
            (p.value * name.scale for p in log.points if p.name == name.old and p.value < float("inf")), default=0
        )
        if is_share(name.new) and most > 1 + 1e-6:
            advice = f"--percent '{name.old}' divides it by 100, --rename '{name.old}=...' gives it another name"
            raise UserError([f"{source.path}: {name.old} reaches {most:g}, but {name.new} lies in 0..1; {advice}"])
    return names


def _renames(words: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        old, equals, new = word.rpartition("=")
        if not equals or not old or new != valid(new):
            raise UserError([f"--rename {word}: should be OLD=NEW, NEW of letters, digits and _ - . /"])
        found[old] = new
    return found


def _known(asked: Iterable[str], names: Collection[str]) -> None:
    wrong = [f"{name}: unknown metric{suggestion(name, sorted(names))}" for name in asked if name not in names]
    if wrong:
        raise UserError(wrong)


def _data(word: str | None) -> str | None:
    """A run's digest of its images, or the word itself. Raises UserError."""
    if word is None or not (paths.runs() / word / journal.FILE).is_file():
        return word
    digest: str | None = (RecordedRun(paths.runs() / word).record.get("data") or {}).get("digest")
    if not digest:
        raise UserError([f"--data {word}: this run does not record which data it used"])
    return digest


def _experiment(place: Path) -> str:
    """After the folder."""
    place = place.resolve()
    return _folder_name((place.parent if place.is_file() else place).name)


def _folder_name(name: str) -> str:
    """What a run's folder can begin with."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "imported"


def _show(olds: Sequence[Old]) -> None:
    """What becomes of the metrics, in all runs."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD)
    for heading, side in (("in the log", "left"), ("on record", "left"), ("runs", "right"), ("such as", "left")):
        grid.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    for name in sorted({name for old in olds for name in old.names}, key=lambda name: name.old):
        having = [old for old in olds if name in old.names]
        last = [point.value for point in having[0].log.points if point.name == name.old][-1]
        became = f"{last:.6g} -> {last * name.scale:.6g}" if name.scale != 1 else f"{last:.6g}"
        grid.add_row(name.old, name.new, str(len(having)), became)
    console().print(grid, highlight=False, markup=False)


def _each(olds: Sequence[Old], dry: bool) -> Iterator[tuple[RecordedRun, RecordedRun | None]]:
    """Put each on record, unless it is there; the new runs, and what each replaces."""
    known = on_record()
    for old in olds:
        before, unchanged = earlier(old, known)
        what = f"{old.source.name} ({old.log.kind}, points: {len(old.log.points)}, experiment {old.experiment})"
        again = f", replacing {before.id}: the log or the options have changed" if before else ""
        if unchanged and before:
            tell(f"{old.source.name}: already on record as {before.id}")
            continue
        if dry:
            tell(f"would import {what}{again}")
        else:
            run = write(old, before)
            known = [record for record in known if before is None or record["run"] != before.id] + [run.record]
            tell(f"imported {what} as {run.id}{again}")
            yield run, before
        for note in old.log.notes:
            tell(f"  {note}")


def _send(imported: Sequence[tuple[RecordedRun, RecordedRun | None]]) -> None:
    """Send them to MLflow and print the command that compares them."""
    from core.tracking.api import sync

    runs = [run for run, _ in imported]
    for standing in sync(run.folder for run in [*runs, *(before for _, before in imported if before)]):
        for refused in standing.refused:
            tell(f"{standing.run}: MLflow refused {refused}")
        if not standing.complete:
            tell(f"{standing.run}: not in MLflow yet ({standing.why}); nothing is lost: labbook sync sends the rest")
    names = " ".join(dict.fromkeys(run.record["experiment"] for run in runs))
    metrics = [name for name in ("test/accuracy", "val/accuracy", "val/loss") if name in runs[0].metrics]
    tell(f"compare: labbook compare {names} --metric {metrics[0] if metrics else '...'}")
