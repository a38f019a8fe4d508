"""The images of a data set as `labbook check` reads them: all of them, whatever is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data.reading.archive import Content
from data.reading.ingest import Stored
from data.reading.tree import Tree


@dataclass(frozen=True)
class Listing:
    """The images of a data set.

    data: class of the data set.  tree: their names.  places: (split, class) of each image, "" for an unknown one.
    refused: error lines for which the data set would not load.  contents: (row, content) of each image, in any order;
    None for a file that cannot be opened.  groups: of each image; empty if the data have none.
    """

    data: str
    tree: Tree
    places: tuple[tuple[str, str], ...]
    refused: tuple[str, ...]
    contents: Callable[[], Iterator[tuple[int, Stored | Content]]]
    groups: tuple[str | None, ...] = ()
