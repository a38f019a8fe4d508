"""A contact sheet of the images whose class is least certain."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core.common import plots
from data.predict.inputs import Reading, contents, image_of
from data.predict.results import Row
from data.reading.frame import Frame
from data.reading.progress import printable

MOST = 40  # images
_LABEL = "probability of "


def write(rows: Iterable[Row], places: Sequence[str], reading: Reading, path: Path) -> None:
    """Write the MOST least certain images of the rows, the least certain one first, as a PNG; they are read again from
    their places. Raises OSError, and UserError for a place that cannot be read any more."""
    chosen = heapq.nsmallest(MOST, (row for row in rows if not row.get("error")), key=_certainty)
    shown = _shown({row["path"] for row in chosen}, places, replace(reading, frame=Frame(plots.TILE, plots.TILE)))
    gray = np.full((plots.TILE, plots.TILE, 3), 225, np.uint8)
    pixels = [shown.get(row["path"], gray) for row in chosen]
    plots.contact_sheet(np.stack(pixels or [gray]), [*map(_title, chosen)] or ["no images"], path)


def _certainty(row: Row) -> float:
    """The probability of the class; of several labels, the distance from 0.5 of the least certain one."""
    labels = [value for name, value in row.items() if name.startswith(_LABEL)]
    return min(abs(value - 0.5) for value in labels) if labels else float(row["probability"])


def _title(row: Row) -> str:
    said = f"{row['class'] or '?'} {row['probability']:.0%}" if "class" in row else row["labels"] or "-"
    return printable(f"{said}  {Path(row['path']).name}")


def _shown(names: set[str], places: Sequence[str], reading: Reading) -> dict[str, np.ndarray]:
    """The decoded images of these names, files of their own or members of archives among the places, as far as they can
    still be read."""
    inside = {name for name in names if not Path(name).is_file()}
    files = ((name, Path(name)) for name in names - inside)
    members = contents([place for place in places if place != "-"], reading) if inside else iter(())
    found: dict[str, np.ndarray] = {}
    for name, content in itertools.chain(files, members):
        if name in names and name not in found and (pixels := image_of(name, content, reading).pixels) is not None:
            found[name] = pixels
            if len(found) == len(names):
                break
    return found
