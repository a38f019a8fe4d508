"""Read runs for a comparison from their records, thousands of them per second; torch is not imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from sys import intern
from typing import Any

from core.common import paths
from core.common.errors import UserError
from core.common.text import did_you_mean
from core.declare.renamed import migrated_names
from core.record import journal
from core.record.ids import named_in
from core.record.labels import labels
from core.record.run import IMPORTED, RECORD, REPLACED, RecordedRun, holds_others
from core.record.summary import SUMMARY, read_summary

SEED, FOLD = "seed", "fold"
FINISHED = "FINISHED"


@dataclass(frozen=True)
class Row:
    """A run.

    fields: dotted name -> declared value as text, without the seed, and without the number of a fold.  seed: pairs it
    with runs of other settings; of a fold, with its number.
    directions: {name without its split: 1 if larger values are better, -1 if smaller ones are} of declared metrics.
    data: digest of its images; None if unknown, as for some imported runs.  whole: whether it was trained on all of its
    data to the end.  error: message of a failed run.  data_name: of its data set; empty if unknown.  images: split ->
    their number, of val and test.
    """

    id: str
    experiment: str
    variant: str | None
    seed: str
    fields: dict[str, str]
    metrics: Mapping[str, float]
    data: str | None
    parameters: int | None
    whole: bool
    status: str = FINISHED
    error: str = ""
    data_name: str = ""
    directions: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)


def rows(words: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Read runs. words: experiments, or ids of runs; a parent stands for all of its seeds.

    Returns the runs, including those that failed or are running, and a line about each run that cannot be read. Raises
    UserError for a word that is neither an experiment with runs on record nor a run.
    """
    read: dict[str, Row | str] = {}
    for word in words:
        found = _read(RecordedRun.of_experiment(word))
        if not found:
            run = _run(word)
            found = (_read(run.children(), named=True) if holds_others(run.record) else {}) or _read([run], named=True)
        read |= found
    return _separated(read)


def rows_of(experiment: str) -> tuple[list[Row], list[str]]:
    """Read all runs of one experiment, as `rows` does; both lists are empty if none is on record."""
    return _separated(_read(RecordedRun.of_experiment(experiment)))


def _read(runs: Iterable[RecordedRun], named: bool = False) -> dict[str, Row | str]:
    """Id -> result of `_row`, the earliest run first. At most one record is held in memory at a time. named: whether
    the runs themselves were asked for, so that it does not matter whether they are archived."""
    latest_first = [(run.id, _row(run, named)) for run in runs]
    return dict(reversed(latest_first))


def _separated(read: Mapping[str, Row | str]) -> tuple[list[Row], list[str]]:
    return [row for row in read.values() if isinstance(row, Row)], [
        line for line in read.values() if isinstance(line, str) and line
    ]


def with_missing_fields(rows: Sequence[Row]) -> list[Row]:
    """Fill in fields that were added after a run was recorded, so that they do not distinguish equal settings.

    A missing field gets the value of the runs that have it, if they agree in the value and have the same part as this
    run. Imported runs are left as they are, since they declare nothing.
    """
    own = [row for row in rows if row.parameters is not None]
    counts = Counter(name for row in own for name in row.fields)
    younger: dict[str, tuple[str | None, str]] = {}
    for name in (name for name, count in counts.items() if count < len(own)):
        found = {(row.fields.get(_above(name)), row.fields[name]) for row in own if name in row.fields}
        if len(found) == 1:
            younger[name] = found.pop()
    return [_filled_in(row, younger) if younger and row.parameters is not None else row for row in rows]


def _filled_in(row: Row, younger: Mapping[str, tuple[str | None, str]]) -> Row:
    lacking = {
        name: value
        for name, (part, value) in younger.items()
        if name not in row.fields and row.fields.get(_above(name)) == part
    }
    return replace(row, fields=row.fields | lacking) if lacking else row


def _above(name: str) -> str:
    return name.rpartition(".")[0]


def _run(word: str) -> RecordedRun:
    try:
        return RecordedRun.load(word)
    except UserError as mistakes:
        known = {named_in(path.parent.parent.name) for path in paths.runs().glob(f"*/artifacts/{RECORD}")}
        hint = did_you_mean(word, sorted(known))
        raise UserError([f"{word}: no experiment with runs on record{hint}", *mistakes.lines]) from None


def _row(run: RecordedRun, named: bool) -> Row | str:
    """A row, or a line that says why the run cannot be compared; an empty line for a parent, which is not a run."""
    folder = run.folder
    try:
        record = run.record
        if holds_others(record):
            return ""
        if not named and labels(folder).archived:
            return f"{folder.name}: archived; a run that is named is compared"
    except UserError as mistakes:
        return f"{folder.name}: {mistakes}"
    try:
        newer = run.tags.get(REPLACED) if IMPORTED in record else None
        if newer and (paths.runs() / newer).exists():
            return f"{folder.name}: imported again as {newer}"
        return _filled(folder, record, summary_of(run))
    except (KeyError, TypeError, ValueError, StopIteration) as error:  # one damaged run must not hide all others
        return f"{folder.name}: its record, {SUMMARY} or {journal.FILE} is damaged ({type(error).__name__}: {error})"


def summary_of(run: RecordedRun) -> Mapping[str, Any]:
    """The saved summary; for a running or killed run, its status from the journal. Raises ValueError, KeyError or
    TypeError for a damaged journal."""
    return read_summary(run) or {"status": run.status, "metrics": {}, "whole": False}


def _filled(folder: Path, record: Mapping[str, Any], summary: Mapping[str, Any]) -> Row:
    fields, status = declared_fields(folder), summary["status"]
    if IMPORTED in record:
        return _imported(folder, record, summary, fields)
    return Row(
        folder.name,
        record["experiment"],
        record["variant"],
        _seed(fields),
        fields,
        summary["metrics"],
        record["data"]["digest"],
        int(record["facts"]["parameters"]),
        summary["whole"],
        status,
        "" if status == FINISHED else RecordedRun(folder).tags.get("error", ""),
        record["data"].get("name", ""),
        record.get("directions", {}),
        {split: int(record["data"][split]) for split in ("val", "test") if record["data"].get(split)},
    )


def _seed(fields: dict[str, str]) -> str:
    """Takes the seed, and the number of a fold, out of the fields of a run: runs of one setting differ in them."""
    fields.setdefault(FOLD, "None")  # of runs that are older than folds
    seed = str(int(fields.pop(SEED)))
    number, repeat = (fields.pop(f"{FOLD}.{name}", None) for name in ("number", "repeat"))
    return f"{seed}, fold {number} of repetition {repeat}" if number else seed


def _imported(folder: Path, record: Mapping[str, Any], summary: Mapping[str, Any], fields: dict[str, str]) -> Row:
    """Row of an imported run. Its seed is not comparable with the seeds of labbook's runs; without one, the run is
    paired with no other."""
    return Row(
        folder.name,
        record["experiment"],
        record["variant"] or IMPORTED,
        f"{IMPORTED} {fields.pop(SEED, folder.name)}",
        fields,
        summary["metrics"],
        record["data"]["digest"],
        None,
        summary["whole"],
        summary["status"],
    )


def declared_fields(folder: Path) -> dict[str, str]:
    """Dotted name -> text, as recorded. Classes that no longer exist do no harm. Equal texts share memory, since most
    of thousands of runs have the same values."""
    values = next(event["values"] for _, event in journal.read(folder) if event["event"] == "params")
    return {intern(name): intern(text) for name, text in migrated_names(values).items()}
