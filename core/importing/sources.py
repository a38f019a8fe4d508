"""Find logs of runs below a path: each folder with event files is a run, and so are each CSV log and each output of a
Trainer of Hugging Face."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from core.common.errors import UserError
from core.common.files import sha256_of
from core.importing import csv_log, tensorboard, trainer_state
from core.importing.log import Log

_BESIDE = {csv_log.KIND: csv_log.beside, tensorboard.KIND: tensorboard.beside}  # the file of settings
_SPLITS = ("train", "validation", "val", "test", "eval")  # subfolders that Keras' TensorBoard callback writes


@dataclass(frozen=True)
class Source:
    """The log of one run. name: unique below the path.  parts: (prefix of the metric names, file) for each file.  fit:
    number of the run in a CSV log to which several were appended."""

    name: str
    path: Path
    kind: str
    parts: tuple[tuple[str, Path], ...]
    fit: int = 1

    @property
    def digest(self) -> str:
        """Hex digest of the contents of its files, including the settings; it changes when the log grows."""
        beside = _BESIDE[self.kind](self.path) if self.kind in _BESIDE else None
        total = hashlib.sha256()
        for file in [*(file for _, file in self.parts), *([beside] if beside and beside.is_file() else [])]:
            total.update(bytes.fromhex(sha256_of(file)))
        if self.fit > 1:
            total.update(str(self.fit).encode())
        return total.hexdigest()

    @property
    def place(self) -> str:
        """The path, and the number of the fit if it is not the first one in its file."""
        return f"{self.path} fit {self.fit}" if self.fit > 1 else str(self.path)

    def read(self) -> list[tuple[Source, Log]]:
        """Read the log; a CSV log to which several runs were appended gives one for each. Raises UserError without any
        run."""
        if self.kind == csv_log.KIND:
            logs = csv_log.read(self.path)
            return [(self if n == 1 else replace(self, name=f"{self.name} fit {n}", fit=n), log) for n, log in logs]
        if self.kind == trainer_state.KIND:
            return [(self, trainer_state.read(self.parts[0][1]))]
        return [(self, tensorboard.read(self.path, self.parts))]


def find(path: Path) -> tuple[list[Source], list[str]]:
    """Returns (logs sorted by name, messages about skipped files). Raises UserError if none is found."""
    path = path.absolute()
    if path.is_file():
        return [_file(path)], []
    if path.exists() and not path.is_dir():
        raise UserError([f"{path}: is not a regular file"])
    if not path.is_dir():
        raise UserError([f"{path}: file or folder not found"])
    folders = [Path(place) for place, _, _ in os.walk(path)]
    found, used = _event_runs(path, sorted(folders))
    states = trainer_state.runs(file for folder in sorted(folders) for file in folder.glob(trainer_state.FILE))
    for run, file in states.items():
        name = run.relative_to(path).as_posix() if run.is_relative_to(path) and run != path else run.name
        found.append(Source(name, run, trainer_state.KIND, (("", file),)))
    left = []
    for folder in sorted(folders):
        for file in sorted(folder.glob("*.csv")):
            if not file.is_file():  # a FIFO would be waited for, and a device be read without an end
                left.append(f"{file}: is not a regular file")
            elif folder in used:
                left.append(f"{file}: the event files in its folder belong to the same run")
            else:
                found.append(Source(_name(path, file), file, csv_log.KIND, (("", file),)))
    if not found:
        raise UserError([f"{path}: contains no TensorBoard event files, CSV logs or {trainer_state.FILE}", *left])
    return sorted(found, key=lambda source: source.name), left


def _file(path: Path) -> Source:
    if path.suffix.lower() == ".csv":
        return Source(_name(path.parent, path), path, csv_log.KIND, (("", path),))
    if path.name == trainer_state.FILE:
        ((run, _),) = trainer_state.runs([path]).items()
        return Source(run.name, run, trainer_state.KIND, (("", path),))
    if path.match(tensorboard.FILES):
        tensorboard.available()
        return Source(path.parent.name, path, tensorboard.KIND, (("", path),))
    others = f"a TensorBoard event file ({tensorboard.FILES}), or {trainer_state.FILE}"
    raise UserError([f"{path}: is none of a CSV log (.csv), {others}"])


def _name(root: Path, file: Path) -> str:
    """The name of a CSV log: its path, or that of its folder if the file has a default name."""
    place = file.parent if file.name in csv_log.BESIDE else file.with_suffix("")
    return place.relative_to(root).as_posix() if place != root else root.name


def _event_runs(root: Path, folders: list[Path]) -> tuple[list[Source], set[Path]]:
    """(the runs, the folders that contain them)."""
    held = {folder: files for folder in folders if (files := tensorboard.files(folder))}
    if held:
        tensorboard.available()
    parts: dict[Path, list[tuple[str, Path]]] = {}
    for folder, files in held.items():  # a folder comes before its subfolders
        prefix = _part_of_parent(folder, files, folder.parent in held) if folder != root else None
        run = folder if prefix is None else folder.parent
        parts.setdefault(run, []).extend((prefix or "", file) for file in files)
    runs = [
        Source(run.relative_to(root).as_posix() if run != root else root.name, run, tensorboard.KIND, tuple(files))
        for run, files in parts.items()
    ]
    return runs, {*held, *parts}


def _part_of_parent(folder: Path, files: list[Path], parent_has_events: bool) -> str | None:
    """The prefix of its metrics if a folder belongs to the run of its parent folder; None if it is a separate run."""
    if folder.name in _SPLITS:
        return f"{folder.name}/"
    if not parent_has_events:
        return None
    if re.fullmatch(r"\d+\.\d+", folder.name):  # SummaryWriter.add_hparams
        return ""
    return next(_tag_of_add_scalars(folder, files), None)


def _tag_of_add_scalars(folder: Path, files: list[Path]) -> Iterator[str]:
    """Yield the prefix of a folder by SummaryWriter.add_scalars("loss", {"val": ...}): loss in the folder loss_val
    becomes val/loss."""
    tags = {tag for file in files for tag in tensorboard.tags(file)}
    for tag in tags if len(tags) == 1 else ():
        if folder.name.startswith(start := f"{tag.replace('/', '_')}_"):
            yield f"{folder.name.removeprefix(start)}/"
