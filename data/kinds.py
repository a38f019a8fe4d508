"""Data sets of image files by name, with options from a command line, or by what a file or folder looks like."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from core.common.errors import UserError
from core.common.text import suggestion
from core.declare.changes import changed
from data.folder import ImageFiles, ImageFolder
from data.hdf5 import Hdf5
from data.huggingface import HuggingFace
from data.reading import rows
from data.reading.archive import HDF5_MAGIC
from data.reading.disk import as_data_error
from data.shards import WebShards
from data.table import ImageTable


def kind_of(path: Path) -> str:
    """The class of the data set that reads a file or folder, by what it looks like."""
    if path.is_dir():
        names = {one.name for one in path.iterdir() if not one.name.startswith(".")}
        if names & {"dataset_dict.json", "dataset_info.json"}:
            return "HuggingFace"
        return "WebShards" if names and all(name.endswith(".tar") for name in names) else "ImageFolder"
    if path.suffix.lower() in rows.SUFFIXES:
        return "ImageTable"
    return "Hdf5" if is_hdf5(path) else "ImageFolder"  # which says what is wrong with a file that is no archive


def is_hdf5(path: Path) -> bool:
    """Whether a path is that of an HDF5 file, by its content. Raises DataError."""
    with as_data_error(path):
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as stream:
            return stream.read(len(HDF5_MAGIC)) == HDF5_MAGIC


def declared(kind: str, options: dict[str, str]) -> ImageFiles:
    """The data set with its options. Raises UserError."""
    known = {cls.__name__: cls for cls in (ImageFolder, ImageTable, WebShards, HuggingFace, Hdf5)}
    if kind not in known:
        raise UserError([f"--data {kind}: unknown data set{suggestion(kind, known)}"])
    return changed(known[kind](), options, "option", "--data.")


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
