"""Which old runs a path holds: a folder with event files is one, and so is a CSV log."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.common.errors import UserError
from core.common.files import sha256_of
from core.importing import csv_log, tensorboard
from core.importing.log import Log

_HALVES = ("train", "validation", "val", "test", "eval")  # Keras' TensorBoard callback: a folder for each


@dataclass(frozen=True)
class Source:
    """One old run. name: what sets it apart from others below the same path.  parts: (what its metrics' names begin
    with, file); of a CSV, the file alone."""

    name: str
    path: Path
    kind: str
    parts: tuple[tuple[str, Path], ...]

    @property
    def digest(self) -> str:
        """Of its files' content, those of its settings too: a log that has grown has another one."""
        beside = (csv_log if self.kind == csv_log.KIND else tensorboard).beside(self.path)
        total = hashlib.sha256()
        for file in [*(file for _, file in self.parts), *([beside] if beside.is_file() else [])]:
            total.update(bytes.fromhex(sha256_of(file)))
        return total.hexdigest()

    def read(self) -> Log:
        """Raises UserError where it holds no run."""
        return csv_log.read(self.path) if self.kind == csv_log.KIND else tensorboard.read(self.path, self.parts)


def find(path: Path) -> tuple[list[Source], list[str]]:
    """(old runs by name, lines about what is left out). Raises UserError where there is none."""
    path = path.absolute()
    if path.is_file():
        return [_file(path)], []
    if not path.is_dir():
        raise UserError([f"{path}: no such file or folder"])
    folders = [Path(place) for place, _, _ in os.walk(path)]
    found, used = _event_runs(path, sorted(folders))
    left = []
    for folder in sorted(folders):
        for file in sorted(folder.glob("*.csv")):
            if folder in used:
                left.append(f"{file}: skipped, because the event files in its folder are of the same run")
            else:
                found.append(Source(_name(path, file), file, csv_log.KIND, (("", file),)))
    if not found:
        raise UserError([f"{path}: neither event files of TensorBoard nor CSV logs in it or below"])
    return sorted(found, key=lambda source: source.name), left


def _file(path: Path) -> Source:
    if path.suffix.lower() == ".csv":
        return Source(_name(path.parent, path), path, csv_log.KIND, (("", path),))
    if path.match(tensorboard.FILES):
        tensorboard.available()
        return Source(path.parent.name, path, tensorboard.KIND, (("", path),))
    raise UserError([f"{path}: neither a CSV log (.csv) nor an event file of TensorBoard ({tensorboard.FILES})"])


def _name(root: Path, file: Path) -> str:
    """A log with its writer's usual name is called after its folder."""
    place = file.parent if file.name in csv_log.BESIDE else file.with_suffix("")
    return place.relative_to(root).as_posix() if place != root else root.name


def _event_runs(root: Path, folders: list[Path]) -> tuple[list[Source], set[Path]]:
    """(the runs, the folders that they are in)."""
    held = {folder: files for folder in folders if (files := tensorboard.files(folder))}
    if held:
        tensorboard.available()
    parts: dict[Path, list[tuple[str, Path]]] = {}
    for folder, files in held.items():  # a folder comes before what is in it
        prefix = _part_of_parent(folder, files, folder.parent in held) if folder != root else None
        run = folder if prefix is None else folder.parent
        parts.setdefault(run, []).extend((prefix or "", file) for file in files)
    runs = [
        Source(run.relative_to(root).as_posix() if run != root else root.name, run, tensorboard.KIND, tuple(files))
        for run, files in parts.items()
    ]
    return runs, {*held, *parts}


def _part_of_parent(folder: Path, files: list[Path], parent_has_events: bool) -> str | None:
    """What the names of its metrics begin with in its parent's run; None for a run of its own."""
    if folder.name in _HALVES:
        return f"{folder.name}/"
    if not parent_has_events:
        return None
    if re.fullmatch(r"\d+\.\d+", folder.name):  # SummaryWriter.add_hparams
        return ""
    return next(_tag_of_add_scalars(folder, files), None)


def _tag_of_add_scalars(folder: Path, files: list[Path]) -> Iterator[str]:
    """SummaryWriter.add_scalars("loss", {"val": ...}) writes `loss` to the folder loss_val: val/ of loss."""
    tags = {tag for file in files for tag in tensorboard.tags(file)}
    for tag in tags if len(tags) == 1 else ():
        if folder.name.startswith(start := f"{tag.replace('/', '_')}_"):
            yield f"{folder.name.removeprefix(start)}/"
