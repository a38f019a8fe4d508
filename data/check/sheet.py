"""The contact sheet of labbook check: random images of each class, duplicates, suspect labels, unreadable files."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from core import randomness
from core.common import plots
from data.check.findings import Inspection
from data.check.labels import Opinion
from data.check.survey import pixels_of
from data.reading.progress import printable

MOST_CLASSES, MOST_PAIRS, MOST_UNREADABLE, MOST_SUSPECTS = 60, 24, 24, 24
_GRAY = 225

Tile = tuple[int | None, str]  # row of the image, or None for an empty tile; title


def write(found: Inspection, opinion: Opinion | None, path: Path) -> None:
    """Write the contact sheet as a PNG. Raises OSError, and DataError if images have changed since the inspection."""
    tiles = [*_of_classes(found), *_of_pairs(found), *_suspected(opinion), *_unreadable(found)]
    wanted = {row for row, _ in tiles if row is not None}
    pictures = {}
    for row, content in found.listing.contents():
        if row in wanted and content is not None:
            pictures[row] = pixels_of(content, found.tree.names[row], plots.TILE, found.how)
    nothing = np.full((plots.TILE, plots.TILE, 3), 255, np.uint8)
    gray = np.full_like(nothing, _GRAY)
    pixels = [nothing if not title else gray if row is None else pictures[row] for row, title in tiles]
    plots.contact_sheet(np.stack(pixels or [nothing]), [title for _, title in tiles] or ["no images"], path)


def _of_classes(found: Inspection) -> list[Tile]:
    """A row of random images for each class, for the first MOST_CLASSES classes."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row in found.survey.seen:
        rows[found.places[row][1]].append(row)
    tiles: list[Tile] = []
    for name in sorted(rows)[:MOST_CLASSES]:
        drawn = randomness.permutation(0, 0, len(rows[name]))[: plots.COLUMNS]
        tiles += _line([(rows[name][at], printable(name) or "no class") for at in drawn.tolist()])
    return tiles


def _of_pairs(found: Inspection) -> list[Tile]:
    """Duplicates and near-duplicates, those across splits and classes first."""
    twice = [(rows[0], rows[1], "=") for rows in found.same]
    twice += [(pair.one, pair.other, "~") for pair in (*found.near.across, *found.near.within)]
    twice.sort(key=lambda pair: found.places[pair[0]] == found.places[pair[1]])
    tiles: list[Tile] = []
    for one, other, sign in twice[:MOST_PAIRS]:
        tiles += [(one, found.name(one)), (other, f"{sign} {found.name(other)}")]
    return _line(tiles)


def _suspected(opinion: Opinion | None) -> list[Tile]:
    suspects = opinion.suspects[:MOST_SUSPECTS] if opinion else ()
    return _line([(one.row, printable(f"{one.label}? {one.said} {one.confidence:.0%}")) for one in suspects])


def _unreadable(found: Inspection) -> list[Tile]:
    rows = list(found.survey.unreadable)[:MOST_UNREADABLE]
    return _line([(None, f"unreadable: {Path(found.name(row)).name}") for row in rows])


def _line(tiles: list[Tile]) -> list[Tile]:
    """The tiles, filled up with empty tiles to complete rows."""
    empty: Tile = (None, "")
    return tiles + [empty] * (-len(tiles) % plots.COLUMNS)
