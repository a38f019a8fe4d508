"""Data sets of image files by name, with options from a command line, or by what a file or folder looks like."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.common.errors import DataError, UserError
from core.common.text import suggestion
from core.declare.changes import changed
from core.loading.images import Dataset
from data.arrays import Arrays
from data.folder import ImageFiles, ImageFolder
from data.hdf5 import Hdf5
from data.huggingface import HuggingFace
from data.reading import tables
from data.reading.archive import HDF5_MAGIC
from data.reading.disk import as_data_error
from data.shards import WebShards
from data.table import ImageTable
from data.torch_dataset import TorchDataset
from data.torchvision_dataset import TorchvisionDataset

PACKED = "pack.json"  # of a set that labbook pack wrote


def kind_of(path: Path) -> str:
    """The class of the data set that reads a file or folder, by what it looks like."""
    if path.is_dir():
        names = {one.name for one in path.iterdir() if not one.name.startswith(".")}
        if PACKED in names:
            return _packed(path / PACKED)
        if tables.parts_of(path):
            return "ImageTable"
        if names & {"dataset_dict.json", "dataset_info.json"}:
            return "HuggingFace"
        if any(name.endswith(".npy") for name in names):
            return "Arrays"
        return "WebShards" if names and all(name.endswith(".tar") for name in names) else "ImageFolder"
    if path.suffix.lower() in tables.SUFFIXES:
        return "ImageTable"
    if path.suffix.lower() in (".npz", ".npy"):
        return "Arrays"
    return "Hdf5" if is_hdf5(path) else "ImageFolder"  # which says what is wrong with a file that is no archive


def _packed(path: Path) -> str:
    """The class of the data set that reads a packed set. Raises DataError."""
    try:
        with as_data_error(path):
            return str(json.loads(path.read_text())["data"])
    except (ValueError, KeyError, TypeError):
        raise DataError([f"{path} is damaged; name the class of the data with --data"]) from None


def is_hdf5(path: Path) -> bool:
    """Whether a path is that of an HDF5 file, by its content. Raises DataError."""
    with as_data_error(path):
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as stream:
            return stream.read(len(HDF5_MAGIC)) == HDF5_MAGIC


OF_FILES = (ImageFolder, ImageTable, WebShards, HuggingFace, Hdf5, Arrays)
WITH_LABELS = (*OF_FILES, TorchDataset, TorchvisionDataset)


def class_of(kind: str, among: Sequence[type[Dataset]]) -> type[Dataset]:
    """The data set of this name. Raises UserError."""
    known = {cls.__name__: cls for cls in among}
    if kind not in known:
        raise UserError([f"--data {kind}: unknown data set{suggestion(kind, known)}"])
    return known[kind]


def declared(kind: str, options: Mapping[str, str]) -> ImageFiles:
    """The data set of image files with its options. Raises UserError."""
    found = with_options(class_of(kind, OF_FILES), options)
    assert isinstance(found, ImageFiles)
    return found


def with_options(cls: type[Dataset], options: Mapping[str, Any]) -> Dataset:
    """A data set with options of a command line. Raises UserError."""
    required = [name for name, field in cls.model_fields.items() if field.is_required()]
    if lacking := [name for name in required if name not in options]:
        raise UserError([f"--data {cls.__name__} needs --data.{lacking[0]}"])
    values: dict[str, Any] = dict(options)
    for name, text in options.items():
        if isinstance(text, str) and text.startswith("{"):
            try:
                values[name] = json.loads(text)
            except ValueError as error:
                raise UserError([f"--data.{name} {text}: not JSON: {error}"]) from None
    return changed(cls.read({name: values.pop(name) for name in required}), values, "option", "--data.")


def divided(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(the words of the command line without options of the data set, these options)"""
    rest, options, left = [], {}, iter(words)
    for word in left:
        if word.startswith("--data."):
            name, equals, value = word.removeprefix("--data.").partition("=")
            given = value if equals else next(left, None)
            if given is None or name in options:
                raise UserError([f"--data.{name}: {'a value is missing' if given is None else 'given twice'}"])
            options[name] = given
        else:
            rest.append(word)
    return rest, options
