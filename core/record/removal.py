"""Removal of runs from the record, unless other runs stand on them.

A folder is moved out of the record in one step and deleted after that: a process that is killed leaves the whole run or
none, and what it has moved is deleted by the next removal.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.common import paths
from core.common.errors import UserError
from core.common.failpoints import failpoint
from core.common.files import make_folder, sync
from core.common.text import few
from core.record.ids import named_in
from core.record.labels import locked_labels
from core.record.latest import relink
from core.record.lock import is_free, locked
from core.record.run import COMBINED, MIRROR, RECORD, RecordedRun, read_record

_STANDING = ("parent", "continued", "weights", "declaration", COMBINED)  # fields of a record that may name another run


def refuse_needed(runs: Sequence[RecordedRun]) -> None:
    """Raises UserError, with a line for each reason, if other runs stand on these: as their parent, as the run that
    they continue, as a member of an ensemble or a soup, as a teacher, or as the source of their weights. A run of
    several seeds, of folds or of a study can only be removed together with its parent, which summarizes it."""
    going = {run.id: run for run in runs}
    apart: dict[str, list[str]] = {}  # parent -> its runs that are to be removed without it
    for run in runs:
        above = _record(run.folder).get("parent")
        if above and above not in going and (paths.runs() / above).exists():
            apart.setdefault(above, []).append(run.id)
    needed: dict[tuple[str, str], list[str]] = {}  # (run, place in the records of the others) -> the others
    for path in sorted(paths.runs().glob(f"*/artifacts/{RECORD}")):
        other = path.parents[1]
        if other.name not in going:
            for found in _stands_on(other, going):
                needed.setdefault(found, []).append(other.name)
    wrong = [f"{few(below, 3)}: of the runs that {above} summarizes; {_all(above)}" for above, below in apart.items()]
    wrong += [f"{run_id} is the parent of {few(others, 3)}; {_all(run_id)}" if place == "parent" else
              f"{run_id} is needed by {few(others, 3)}: it is in the record ({place})"
              for (run_id, place), others in needed.items()]  # fmt: skip
    if wrong:
        raise UserError(wrong)


def _all(parent: str) -> str:
    return f"to remove all: labbook rm --children {parent}; to leave runs out of lists: labbook archive"


def size_of(run: RecordedRun) -> int:
    """The bytes that a run takes on disk; files with several names in it count once."""
    found = [path.lstat() for path in (run.folder, *run.folder.rglob("*"))]
    return sum({(one.st_dev, one.st_ino): one.st_blocks * 512 for one in found}.values())


def remove(runs: Sequence[RecordedRun]) -> None:
    """Remove runs, those below a parent before it. Raises UserError if a process is using one of them or another run
    needs one."""
    for run in runs:
        if run.folder.is_symlink() or run.folder.parent.resolve() != paths.runs().resolve():
            raise UserError([f"{run.folder}: this run is not in {paths.runs()} itself; remove it by hand"])
        if not is_free(run.folder):
            raise UserError([f"{run.id}: another process is using this run"])
    refuse_needed(runs)
    _empty()
    try:
        for run in sorted(runs, key=lambda run: _record(run.folder).get("parent") is None):
            with locked(run.folder), locked_labels(run.folder):
                _move(run.folder)
    except OSError as error:
        raise UserError([f"{error.filename}: {error.strerror}; what had not been removed before is left"]) from None
    finally:
        _empty()
        left = [path.parents[1].name for path in paths.runs().glob(f"*/artifacts/{RECORD}")]
        for experiment in {named_in(run.id) for run in runs}:
            relink(experiment, left)


def _move(folder: Path) -> None:
    """Move the folder of a run out of the record."""
    aside = paths.runs().parent / "removed"
    make_folder(aside)
    failpoint("run is removed")
    os.rename(folder, aside / folder.name)
    sync(folder.parent)
    failpoint("run was removed")


def _empty() -> None:
    """Delete what was moved out of the record, also by a process that was killed before it could."""
    aside = paths.runs().parent / "removed"
    try:
        for folder in aside.iterdir() if aside.is_dir() else ():
            shutil.rmtree(folder)
    except FileNotFoundError:  # another process deletes it, too
        pass
    except OSError as error:
        raise UserError([f"{error.filename or aside}: {error.strerror}; delete {aside} yourself"]) from None


def _stands_on(folder: Path, going: Mapping[str, RecordedRun]) -> Iterator[tuple[str, str]]:
    """Yield (id of a run in `going`, dotted place in the record that names it) for each that a run stands on."""
    record = _record(folder)
    fields = {name: record.get(name) for name in _STANDING}
    for place, text in _texts(fields):
        for run_id in {named for named in _named(text, going) if named in going}:
            yield run_id, place


def _texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted place, text) of each text in a part of a record."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{place}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, place)


def _named(text: str, going: Mapping[str, RecordedRun]) -> Iterator[str]:
    """Yield the ids that a text may mean: an id, a beginning of one, MLflow's id, or a path with a run in it."""
    yield from re.findall(r"[\w.-]+", text)
    if re.fullmatch(r".+-\d[\da-f-]*", text):
        yield from (run_id for run_id in going if run_id.startswith(text))
    if re.fullmatch("[0-9a-f]{32}", text):
        yield from (run_id for run_id, run in going.items() if _is_in_mlflow(run, text))


def _record(folder: Path) -> Mapping[str, Any]:
    """The record of a run. Of one that cannot be read, every run that its text names is taken for needed."""
    path = folder / "artifacts" / RECORD
    try:
        return read_record(path)
    except UserError:
        return {"declaration": path.read_text(errors="replace")} if path.is_file() else {}


def _is_in_mlflow(run: RecordedRun, mlflow_id: str) -> bool:
    try:
        return mlflow_id in (run.folder / MIRROR).read_text(errors="replace")
    except OSError:
        return False
