"""Listing of the images of a folder, tar, zip or LMDB, with the same names in the same order for all of them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core.common.errors import DataError
from data.reading import archive
from data.reading.decode import SUFFIXES
from data.reading.progress import printable
from data.reading.splits import split_of


@dataclass(frozen=True)
class Tree:
    """The files of a source.

    names: of the images, sorted.  folders: all folders, including empty ones.  others: full names of all other files,
    including hidden ones.  top: "" or "name/", the common top folders, which are removed from the names.
    """

    path: Path
    top: str
    names: tuple[str, ...]
    folders: frozenset[str]
    others: tuple[str, ...]


def scan(path: Path, refuse: archive.Refuse = archive.at_once) -> Tree:
    """List the images of a folder or archive without reading them.  refuse: see archive.members. Raises DataError."""
    names: list[str] = []
    folders: set[str] = set()
    others: list[str] = []
    for member, _ in archive.members(path, refuse=refuse):
        if archive.hidden(member.name):
            others += [] if member.folder else [member.name]
        elif member.folder:
            folders.add(member.name)
        else:
            folders.update(_around(member.name))
            (names if is_image(member) else others).append(member.name)
    names.sort()
    for name, following in itertools.pairwise(names):
        if name == following:
            raise DataError([f"{path} contains {printable(name)} twice; create the archive again"])
    top = _top(names)
    below = frozenset(folder.removeprefix(top) for folder in folders if folder.startswith(top))
    return Tree(path, top, tuple(name.removeprefix(top) for name in names), below - {""}, tuple(others))


def contents(tree: Tree, refuse: archive.Refuse = archive.at_once) -> Iterator[tuple[int, archive.Content]]:
    """(index into tree.names, content) of every image, in stored order; the content is None for an image whose error
    `refuse` does not raise, see archive.members. Raises DataError if images were added or removed since the scan."""
    position = {tree.top + name: row for row, name in enumerate(tree.names)}
    for member, content in archive.members(tree.path, is_image, refuse):
        if is_image(member):
            if member.name not in position:
                raise _changed(tree.path)
            yield position.pop(member.name), content
    if position:
        raise _changed(tree.path)


def is_image(member: archive.Member) -> bool:
    """Whether a member is an image by its name: not hidden, with the extension of a supported format."""
    suffix = os.path.splitext(member.name)[1].lower()
    return suffix in SUFFIXES and not member.folder and not archive.hidden(member.name)


def _around(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _top(names: list[str]) -> str:
    """The folders around all images, as archives often have one, if there are two further levels below them."""
    top: list[str] = []
    paths = [name.split("/") for name in names]
    while True:
        depth = len(top)
        around = {path[depth] for path in paths if len(path) > depth + 2}
        if len(around) != 1 or split_of(next(iter(around))) or any(len(path) <= depth + 2 for path in paths):
            return "".join(f"{name}/" for name in top)
        top += around


def _changed(path: Path) -> DataError:
    return DataError([f"{path} changed while it was being read; start again"])
