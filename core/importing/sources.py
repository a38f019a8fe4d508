"""Find runs below a path: each folder with event files is a run, and so are each CSV log, each history of W&B, and each
output of a Trainer of Hugging Face; a store of MLflow and an export of Neptune have several."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from core.common.errors import UserError
from core.common.files import sha256_of
from core.importing import csv_log, mlflow_log, neptune_log, parquet, tensorboard, trainer_state, wandb_log
from core.importing.log import Found, Log, Origin, Source, wanted
from core.importing.mlflow_log import MlflowSource
from core.tracking.address import is_file_store

_BESIDE = {csv_log.KIND: csv_log.beside, tensorboard.KIND: tensorboard.beside}  # the file of settings
_SPLITS = ("train", "validation", "val", "test", "eval")  # subfolders that Keras' TensorBoard callback writes


@dataclass(frozen=True)
class FileSource:
    """The log of one run, in files.

    name: unique below the path.  parts: (prefix of the metric names, file) for each file; of W&B, (name, file) of what
    is beside the history.  fit: number of the run in a CSV log to which several were appended.
    """

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

    @property
    def words(self) -> frozenset[str]:
        own = wandb_log.id_of(self.parts[0][1]) if self.kind == wandb_log.KIND else ""
        return frozenset((self.name, *([own] if own else [])))

    def read(self, only: Collection[str]) -> Found:
        """Read the log; a CSV log to which several runs were appended gives one for each. Raises UserError without any
        run."""
        found: list[tuple[Origin, Log]] = []
        if self.kind == csv_log.KIND:
            for fit, log in csv_log.read(self.path):
                found.append((self if fit == 1 else replace(self, name=f"{self.name} fit {fit}", fit=fit), log))
        elif self.kind == trainer_state.KIND:
            found.append((self, trainer_state.read(self.parts[0][1])))
        elif self.kind == wandb_log.KIND:
            found.append((self, wandb_log.read(self.parts)))
        else:
            found.append((self, tensorboard.read(self.path, self.parts)))
        return [(origin, log) for origin, log in found if wanted(origin.words, only)], []


def find(word: str) -> tuple[list[Source], list[str]]:
    """Returns (sources of runs sorted by place, messages about skipped files). word: a path, or the tracking URI of a
    store of MLflow. Raises UserError if none is found."""
    if uri := mlflow_log.uri_of(word):
        return [MlflowSource(uri)], []
    return _below(Path(word))


def _below(path: Path) -> tuple[list[Source], list[str]]:
    path = path.absolute()
    if path.is_file():
        return [_file(path)], []
    if path.exists() and not path.is_dir():
        raise UserError([f"{path}: is not a regular file"])
    if not path.is_dir():
        raise UserError([f"{path}: file or folder not found"])
    folders, stores = _walked(path)
    found, used = _event_runs(path, folders)
    states = trainer_state.runs(file for folder in folders for file in folder.glob(trainer_state.FILE))
    for run, file in states.items():
        name = run.relative_to(path).as_posix() if run.is_relative_to(path) and run != path else run.name
        found.append(FileSource(name, run, trainer_state.KIND, (("", file),)))
    left = []
    neptune: list[Path] = []
    for folder in folders:
        histories: list[Path] = []
        for file in sorted([*folder.glob("*.csv"), *folder.glob("*.parquet")]):
            if not file.is_file():  # a FIFO would be waited for, and a device be read without an end
                left.append(f"{file}: is not a regular file")
            elif file.suffix == ".parquet":
                try:
                    (neptune if parquet.written_by(file) == neptune_log.KIND else histories).append(file)
                except UserError as mistakes:
                    left += mistakes.lines
            elif folder in used:
                left.append(f"{file}: the event files in its folder belong to the same run")
            elif wandb_log.is_history(file):
                histories.append(file)
            else:
                found.append(FileSource(_name(path, file), file, csv_log.KIND, (("", file),)))
        found += _wandb_runs(path, histories)
        left += [
            f"{file}: the history of this offline run is in W&B's own format; send it with wandb sync, and export it "
            f"as Parquet or CSV" for file in sorted(folder.glob("*.wandb")) if not histories
        ]  # fmt: skip
    sources: list[Source] = [*sorted(found, key=lambda source: source.name), *stores, *neptune_log.grouped(neptune)]
    if not sources:
        none = f"contains no TensorBoard event files, CSV logs or {trainer_state.FILE}"
        raise UserError([f"{path}: {none}, and no store of MLflow or export of W&B or Neptune", *left])
    return sources, left


def _walked(path: Path) -> tuple[list[Path], list[Source]]:
    """(folders below a path, stores of MLflow there). What is in a folder of such a store are its artifacts."""
    folders: list[Path] = []
    stores: list[Source] = []
    for place, below, files in os.walk(path):
        if is_file_store(Path(place)):
            stores.append(MlflowSource(f"file:{place}"))
            below.clear()
            continue
        folders.append(Path(place))
        if mlflow_log.DATABASE in files:
            stores.append(MlflowSource(f"sqlite:///{Path(place) / mlflow_log.DATABASE}"))
    return sorted(folders), stores


def _wandb_runs(root: Path, files: list[Path]) -> list[FileSource]:
    """The runs of the histories in a folder. 0000.parquet and further ones, as in W&B's artifacts, are one run."""
    numbered = [file for file in files if re.fullmatch(r"\d{4}", file.stem)]
    runs = [numbered] * bool(numbered) + [[file] for file in files if file not in numbered]
    return [_wandb_run(root, own, len(runs) == 1) for own in runs]


def _wandb_run(root: Path, files: list[Path], alone: bool) -> FileSource:
    named = files[0].parent if re.fullmatch(r"\d{4}", files[0].stem) else files[0].with_suffix("")
    name = named.relative_to(root).as_posix() if named != root else root.name
    parts = [("", file) for file in files] + wandb_log.beside(files[0], alone)
    return FileSource(name, files[0], wandb_log.KIND, tuple(parts))


def _file(path: Path) -> Source:
    if path.suffix.lower() == ".parquet":
        if parquet.written_by(path) == neptune_log.KIND:
            return neptune_log.NeptuneSource((path,))
        return _wandb_run(path.parent, [path], True)
    if path.suffix.lower() == ".csv" and wandb_log.is_history(path):
        return _wandb_run(path.parent, [path], True)
    if path.suffix.lower() == ".csv":
        return FileSource(_name(path.parent, path), path, csv_log.KIND, (("", path),))
    if path.name == trainer_state.FILE:
        ((run, _),) = trainer_state.runs([path]).items()
        return FileSource(run.name, run, trainer_state.KIND, (("", path),))
    if path.match(tensorboard.FILES):
        tensorboard.available()
        return FileSource(path.parent.name, path, tensorboard.KIND, (("", path),))
    others = f"a TensorBoard event file ({tensorboard.FILES}), or {trainer_state.FILE}, and no database or export"
    raise UserError([f"{path}: is none of a CSV log (.csv), {others} (.db, .parquet)"])


def _name(root: Path, file: Path) -> str:
    """The name of a CSV log: its path, or that of its folder if the file has a default name."""
    place = file.parent if file.name in csv_log.BESIDE else file.with_suffix("")
    return place.relative_to(root).as_posix() if place != root else root.name


def _event_runs(root: Path, folders: list[Path]) -> tuple[list[FileSource], set[Path]]:
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
        FileSource(run.relative_to(root).as_posix() if run != root else root.name, run, tensorboard.KIND, tuple(files))
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
