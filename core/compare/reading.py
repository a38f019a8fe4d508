"""Runs as rows of a comparison, read from their records without torch: thousands of them in a second."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any

from core import journal, paths
from core.part import Mistakes
from core.record import IMPORTED, RECORD, REPLACED, SUMMARY, Run, holds_others, load, read_record
from core.spelling import did_you_mean

SEED = "seed"
FINISHED = "FINISHED"


@dataclass(frozen=True)
class Row:
    """A run. fields: dotted name -> declared value, as text; without the seed.  seed: pairs it with runs of other
    settings.  data: digest of its images; None where an imported run does not say.  status: FINISHED, or what became
    of it.  error: of one that failed."""

    id: str
    experiment: str
    variant: str | None
    seed: str
    fields: Mapping[str, str]
    metrics: Mapping[str, float]
    data: str | None
    parameters: int | None
    whole: bool
    status: str = FINISHED
    error: str = ""


def rows(words: Sequence[str]) -> tuple[list[Row], list[str]]:
    """Runs of the experiments and those named (all of the seeds of a parent), however they ended, and a line for each
    that cannot be read.

    Raises Mistakes for a word that is neither an experiment with runs on record nor a run, with the nearest ones.
    """
    chosen: dict[str, Path] = {}
    by_experiment: dict[str, list[Path]] = {}
    for path in sorted(paths.runs().glob(f"*/artifacts/{RECORD}")):
        name = path.parent.parent.name
        by_experiment.setdefault(name.rsplit("-", 3)[0], []).append(path.parent.parent)
    for word in words:
        if word in by_experiment:
            chosen |= {folder.name: folder for folder in by_experiment[word]}
            continue
        run = _run(word, by_experiment)
        below = _below(run, by_experiment)
        chosen |= {folder.name: folder for folder in below or [run.folder]}
    return _read(chosen.values())


def rows_of(experiment: str) -> tuple[list[Row], list[str]]:
    """All runs of one experiment, as `rows` has them; none where none is on record."""
    folders = (path.parent.parent for path in sorted(paths.runs().glob(f"{experiment}-*/artifacts/{RECORD}")))
    return _read(folder for folder in folders if folder.name.rsplit("-", 3)[0] == experiment)


def _read(folders: Iterable[Path]) -> tuple[list[Row], list[str]]:
    found, left = [], []
    for folder in folders:
        row = _row(folder)
        if isinstance(row, str):
            left.append(row)
        else:
            found.append(row)
    return found, [line for line in left if line]


def _run(word: str, known: Mapping[str, Any]) -> Run:
    try:
        return load(word)
    except Mistakes as mistakes:
        hint = did_you_mean(word, known)
        raise Mistakes([f"{word}: no experiment with runs on record{hint}", *mistakes.lines]) from None


def _below(run: Run, by_experiment: Mapping[str, list[Path]]) -> list[Path]:
    """The runs under a parent's; none for a run of its own."""
    if not holds_others(run.record):
        return []
    folders = by_experiment[run.record["experiment"]]
    return [folder for folder in folders if _parent(folder) == run.id]


def _parent(folder: Path) -> str | None:
    """None where nothing can be read: another run's damage is no matter of this parent."""
    try:
        return read_record(folder / "artifacts" / RECORD).get("parent")
    except Mistakes:
        return None


def _row(folder: Path) -> Row | str:
    """A line where it cannot be compared; an empty one where nobody expects it to be: a parent holds no run."""
    try:
        record = read_record(folder / "artifacts" / RECORD)
    except Mistakes as mistakes:
        return f"{folder.name}: {mistakes}"
    if holds_others(record):
        return ""
    try:
        newer = Run(folder).tags.get(REPLACED) if IMPORTED in record else None
        if newer and (paths.runs() / newer).exists():
            return f"{folder.name}: imported again as {newer}"
        return _filled(folder, record, _summary(folder))
    except (KeyError, TypeError, ValueError, StopIteration) as error:  # one damaged run must not hide all others
        return f"{folder.name}: its record, {SUMMARY} or {journal.FILE} is damaged ({type(error).__name__}: {error})"


def _summary(folder: Path) -> Mapping[str, Any]:
    """As written; of a run that goes still, or was killed, what its journal tells. Raises ValueError, KeyError or
    TypeError for a damaged journal."""
    try:
        summary = json.loads((folder / SUMMARY).read_text())
    except (OSError, ValueError):
        summary = None
    if isinstance(summary, dict) and "status" in summary:
        return summary
    return {"status": Run(folder).status, "metrics": {}, "whole": False}


def _filled(folder: Path, record: Mapping[str, Any], summary: Mapping[str, Any]) -> Row:
    fields, status = _declared(folder), summary["status"]
    if IMPORTED in record:
        return _imported(folder, record, summary, fields)
    return Row(
        folder.name,
        record["experiment"],
        record["variant"],
        str(int(fields.pop(SEED))),
        fields,
        summary["metrics"],
        record["data"]["digest"],
        int(record["facts"]["parameters"]),
        summary["whole"],
        status,
        "" if status == FINISHED else Run(folder).tags.get("error", ""),
    )


def _imported(folder: Path, record: Mapping[str, Any], summary: Mapping[str, Any], fields: dict[str, str]) -> Row:
    """Its seed means nothing to labbook's own runs; one without a seed is paired with none."""
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
    )


def _declared(folder: Path) -> dict[str, str]:
    """Dotted name -> text, as it was recorded, whatever has become of the classes since. Of thousands of runs, most
    say the same: equal texts are kept once."""
    values = next(event["values"] for _, event in journal.read(folder) if event["event"] == "params")
    return {intern(name): intern(text) for name, text in values.items()}
