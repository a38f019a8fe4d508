"""labbook cache: list the caches of decoded images in data/store, and remove old ones."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.common.arguments import VerbParser
from core.common.paths import store
from core.common.terminal import tell
from core.common.text import size
from data.reading import disk

DAY = 24 * 3600


@dataclass(frozen=True)
class Entry:
    """A cache of decoded images.

    sources: descriptions of the data it was built from.  notes: files that map sources to it.  size: bytes.
    used: time of last use, in seconds since the epoch (1970).
    """

    folder: Path
    sources: tuple[str, ...]
    notes: tuple[Path, ...]
    size: int
    used: float


def main(words: Sequence[str]) -> int:
    """Exit status 0. Raises UserError."""
    parser = VerbParser("cache", __doc__)
    parser.add_argument("--prune", type=float, metavar="DAYS", help="remove caches not used for this number of days")
    given = parser.parse_args(list(words))
    found = sorted(entries(), key=lambda entry: -entry.used)
    if given.prune is None:
        for entry in found:
            tell(f"{_description(entry)}  {entry.folder}")
        total = size(sum(entry.size for entry in found))
        tell(f"{len(found)} caches, {total}; labbook cache --prune DAYS removes those not used for DAYS days")
        return 0
    old = [entry for entry in found if time.time() - entry.used >= given.prune * DAY]
    for entry in old:
        remove(entry)
        tell(f"removed: {_description(entry)}")
    freed = size(sum(entry.size for entry in old))
    tell(f"{len(old)} of {len(found)} caches removed, {freed}; a removed cache is rebuilt when it is needed")
    return 0


def entries() -> Iterator[Entry]:
    """All caches, in no particular order. A cache without a source, left by a killed process, has the time of its
    folder."""
    root = store() / "cache"
    leading: dict[str, list[tuple[Path, str]]] = {}
    for path in (root / "sources").glob("*.json"):
        try:
            note = json.loads(path.read_text())
            leading.setdefault(note["digest"], []).append((path, str(note["source"])))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # damaged: the cache is rebuilt on next use
    for folder in root.glob("*"):
        if (folder / "index.json").exists():
            notes = leading.get(folder.name, [])
            files = [file.stat() for file in folder.iterdir()]
            used = max([path.stat().st_mtime for path, _ in notes], default=folder.stat().st_mtime)
            sources = tuple(dict.fromkeys(source for _, source in notes))
            yield Entry(folder, sources, tuple(path for path, _ in notes), sum(file.st_size for file in files), used)


def remove(entry: Entry) -> None:
    """Delete a cache. A run that has it open can still read it; it is rebuilt on next use. Raises DataError."""
    with (
        disk.locked(entry.folder.parent / "place.lock", "waiting: another process is finishing a cache"),
        disk.as_data_error(entry.folder),
    ):
        for note in entry.notes:
            note.unlink(missing_ok=True)
        shutil.rmtree(entry.folder)


def _description(entry: Entry) -> str:
    days = (time.time() - entry.used) / DAY
    return f"{size(entry.size):>9}  used {days:.0f} days ago  {'; '.join(entry.sources) or 'left by a killed process'}"
