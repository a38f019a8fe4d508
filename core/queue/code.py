"""The code of an entry when it was added, and how the present code differs from it.

code/KEY.json has the commit and the digests of the sources that the entry's experiment imported, code/KEY.diff what git
did not have of them, and code/DIGEST.py each source itself, once for all entries.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from core.common.errors import UserError
from core.common.files import make_folder, write_atomic
from core.common.paths import ROOT
from core.queue.entries import Entry, changing, file, folder
from core.record import provenance, sources

# what starts a run, not what it computes
_OTHERS = ("core/cli/", "core/queue/", "core/cluster/", "tests/core/", "tests/conftest.py", "tests/support/")
_OWN = "experiments/"  # also below tests/support


def keep() -> str:
    """Record the sources that this process has imported. Returns the key of the code. Raises OSError, and UserError."""
    digests = {_path(name): digest for name, digest in sources.imported().items() if _matters(name)}
    known = provenance.code()
    text = json.dumps({**known, "sources": digests}, indent=1) + "\n"
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    place = folder() / "code"
    if (place / f"{key}.json").exists():
        return key
    with changing("code"):
        make_folder(place)
        for name, digest in digests.items():
            if not (place / f"{digest}.py").exists():
                write_atomic(place / f"{digest}.py", (ROOT / name).read_bytes())
        if known.get("git.dirty") == "true":
            write_atomic(place / f"{key}.diff", sources.snapshot("code", digests).diff)
        write_atomic(place / f"{key}.json", text)
    return key


def changed(entry: Entry) -> list[str]:
    """The sources that differ from those of when an entry was added, and (in that case) written to the entry's diff.
    Raises UserError if the record of the code is missing or damaged, OSError if the diff cannot be written."""
    then = _recorded(entry.code)
    found = [name for name, digest in sorted(then.items()) if sources.digest_of(ROOT / name) != digest]
    if found:
        write_atomic(file(entry.number, "diff"), "".join(line for name in found for line in _diff(name, then[name])))
    return found


def _matters(name: str) -> bool:
    return not name.startswith(_OTHERS) or f"/{_OWN}" in name


def _path(name: str) -> str:
    """The path of a source, relative to ROOT or, outside of it, absolute."""
    return str(sources.path_of(name)) if name.startswith("module ") else name


def _recorded(key: str) -> Mapping[str, str]:
    path = folder() / "code" / f"{key}.json"
    try:
        found = json.loads(path.read_bytes())["sources"]
        if isinstance(found, dict) and all(isinstance(text, str) for pair in found.items() for text in pair):
            return found
        raise ValueError("no digests")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError([f"{path}: the record of the code cannot be read ({error})"]) from None


def _diff(name: str, digest: str) -> Iterator[str]:
    """The lines of a unified diff of a source, from then to now."""
    now = ROOT / name
    before, after = _lines(folder() / "code" / f"{digest}.py"), _lines(now)
    label = name.lstrip("/")
    yield from difflib.unified_diff(before, after, f"a/{label}", f"b/{label}" if now.exists() else "/dev/null")


def _lines(path: Path) -> list[str]:
    """The lines of a file, each with a line break; none of a file that cannot be read."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return [f"{line}\n" for line in text.splitlines()]
