"""labbook import PATH ...: add old runs of TensorBoard, CSV logs, MLflow, W&B, Neptune or Hugging Face to the record.

An imported run is a run like any other: labbook compare compares it, MLflow shows it. Usual names of metrics and
settings become those of labbook, and accuracies are scaled to 0..1; a table shows the name and value of each metric.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.common import paths
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import console, tell
from core.common.text import suggestion
from core.importing.log import Log, Origin
from core.importing.metric_names import Name, is_fraction, named, valid
from core.importing.sources import find
from core.importing.writer import OldRun, earlier, on_record, parent_of, write
from core.record import journal
from core.record.run import RecordedRun


@dataclass(frozen=True)
class ImportOptions:
    """Options of the import. rename: old -> new.  percents: old names of metrics in percent.  data: digest or name.
    only: names and ids of runs and experiments; empty for all."""

    rename: Mapping[str, str]
    percents: Collection[str]
    experiment: str | None = None
    data: str | None = None
    only: Sequence[str] = ()


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("import", __doc__)
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="folder or file of a run, a folder of many runs, or a tracking URI of MLflow (sqlite:///FILE, http://HOST)",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="run or experiment, by name or id; may be repeated"
    )
    parser.add_argument(
        "--experiment", metavar="NAME", help="experiment of the runs; default: its name in a store, or that of the path"
    )
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
    options = ImportOptions(
        _renames(given.rename), frozenset(given.percent), given.experiment, _data(given.data), given.only
    )
    olds, left = gather(given.paths, options)
    _show(olds)
    runs = list(_each(olds, given.dry_run))
    for line in left:
        tell(f"skipped: {line}")
    if runs:
        _send(runs)
    return 0


def gather(places: Iterable[str], options: ImportOptions) -> tuple[list[OldRun], list[str]]:
    """Returns (the runs found at these places, a message for each that was skipped). Raises UserError if all were."""
    logs: list[tuple[Origin, str, Log, str]] = []
    left: list[str] = []
    for place in places:
        sources, aside = find(place)
        left += aside
        for source in sources:
            try:
                found, skipped = source.read(options.only)
            except UserError as mistakes:
                left += mistakes.lines
            except OSError as error:
                left.append(f"{source.place}: {error.strerror}")
            else:
                left += skipped
                experiment = options.experiment or ""
                logs += [(each, each.digest, log, experiment or _experiment(place, log)) for each, log in found]
    known = {word for origin, *_ in logs for word in origin.words}
    if unknown := [word for word in options.only if word not in known]:
        raise UserError([*(f"--only {word}: no run or experiment with this name or id" for word in unknown), *left])
    if not logs:
        raise UserError(left)
    _check_known([*options.rename, *options.percents], {point.name for _, _, log, _ in logs for point in log.points})
    return [
        OldRun(source, digest, log, _named(source, log, options), experiment, options.data)
        for source, digest, log, experiment in logs
    ], left


def _named(source: Origin, log: Log, options: ImportOptions) -> tuple[Name, ...]:
    """The names of the metrics of a log. Raises UserError for an accuracy above 1."""
    names = named({point.name for point in log.points}, options.rename, options.percents)
    for name in names:
        most = max(
            (p.value * name.scale for p in log.points if p.name == name.old and p.value < float("inf")), default=0
        )
        if is_fraction(name.new) and most > 1 + 1e-6:
            advice = f"--percent '{name.old}' divides it by 100, --rename '{name.old}=...' gives it another name"
            raise UserError(
                [f"{source.place}: {name.old} reaches {most:g}, but {name.new} is between 0 and 1; {advice}"]
            )
    return names


def _renames(words: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        old, equals, new = word.rpartition("=")
        if not equals or not old or new != valid(new):
            raise UserError([f"--rename {word}: should be OLD=NEW; NEW consists of letters, digits and _ - . /"])
        found[old] = new
    return found


def _check_known(metrics: Iterable[str], names: Collection[str]) -> None:
    wrong = [f"{name}: unknown metric{suggestion(name, sorted(names))}" for name in metrics if name not in names]
    if wrong:
        raise UserError(wrong)


def _data(word: str | None) -> str | None:
    """The digest of the images if the word is a run, otherwise the word itself. Raises UserError."""
    if word is None or not (paths.runs() / word / journal.FILE).is_file():
        return word
    digest: str | None = (RecordedRun(paths.runs() / word).record.get("data") or {}).get("digest")
    if not digest:
        raise UserError([f"--data {word}: this run does not record which data it used"])
    return digest


def _experiment(place: str, log: Log) -> str:
    """The default name of the experiment: that in a store, or that of the folder."""
    path = Path(place).resolve()
    return _folder_name(log.experiment or (path.parent if path.is_file() else path).name)


def _folder_name(name: str) -> str:
    """The name with characters replaced that are not allowed in the name of a run's folder."""
    return re.sub(r"[^\w.-]+", "_", name).lstrip(".-") or "imported"


def _show(olds: Sequence[OldRun]) -> None:
    """Print a table of the metrics in all runs, with their old and new names."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD)
    for title, side in (("in the log", "left"), ("on record", "left"), ("runs", "right"), ("example", "left")):
        grid.add_column(title, justify=side, overflow="fold")  # type: ignore[arg-type]
    for name in sorted({name for old in olds for name in old.names}, key=lambda name: name.old):
        having = [old for old in olds if name in old.names]
        last = [point.value for point in having[0].log.points if point.name == name.old][-1]
        became = f"{last:.6g} -> {last * name.scale:.6g}" if name.scale != 1 else f"{last:.6g}"
        grid.add_row(name.old, name.new, str(len(having)), became)
    console().print(grid, highlight=False, markup=False)
    changed = {old: new for run in olds for old, new in run.param_names.items() if old != new}
    if changed:
        tell(f"settings: {', '.join(f'{old} is {new}' for old, new in sorted(changed.items()))}")


def _each(olds: Sequence[OldRun], dry: bool) -> Iterator[tuple[RecordedRun, RecordedRun | None]]:
    """Write each run to the record unless it is there already. Yields (new run, the run that it replaces or None)."""
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
            run = write(old, before, parent_of(old, known))
            known = [record for record in known if before is None or record["run"] != before.id] + [run.record]
            tell(f"imported {what} as {run.id}{again}")
            yield run, before
        for note in old.log.notes:
            tell(f"  {note}")


def _send(imported: Sequence[tuple[RecordedRun, RecordedRun | None]]) -> None:
    """Send them to MLflow and print the command that compares them."""
    from core.tracking.api import sync

    runs = [run for run, _ in imported]
    for status in sync(run.folder for run in [*runs, *(before for _, before in imported if before)]):
        for refused in status.refused:
            tell(f"{status.run}: MLflow refused {refused}")
        if not status.complete:
            tell(f"{status.run}: not in MLflow yet ({status.why}); to send the rest: labbook sync")
    names = " ".join(dict.fromkeys(run.record["experiment"] for run in runs))
    metrics = [name for name in ("test/accuracy", "val/accuracy", "val/loss") if name in runs[0].metrics]
    tell(f"compare: labbook compare {names} --metric {metrics[0] if metrics else '...'}")
