"""Links to the latest run, for people: mlruns/latest, and mlruns/EXPERIMENT/latest for each experiment.

No code of labbook depends on them: the word `latest` in place of a run is answered from the ids.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from core.common import paths
from core.record.ids import begun

LATEST = "latest"
_TAKEN = ("runs", "launches", "queue", "decisions", "lr_find", "removed", LATEST)  # names of other things in mlruns/


def link_latest(folder: Path, experiment: str) -> None:
    """Let both links lead to the run in this folder, unless they lead to a later one. Where links are impossible, there
    are none."""
    for link in _links(experiment):
        with suppress(OSError, NotImplementedError):
            if not link.exists() or (link.is_symlink() and begun(target(link).name) < begun(folder.name)):
                _replace(link, folder)


def relink(experiment: str, names: Iterable[str]) -> None:
    """Mend the links that led to a removed run. names: ids of the runs that are left, of all experiments."""
    left = sorted(names, key=begun)
    for link in _links(experiment):
        with suppress(OSError, NotImplementedError):
            if link.is_symlink() and not link.exists():
                own = [name for name in left if link.parent.name in ("mlruns", name.rsplit("-", 3)[0])]
                _replace(link, paths.runs() / own[-1]) if own else link.unlink()


def target(link: Path) -> Path:
    """The folder that a link leads to; a folder that is no link is itself."""
    return Path(os.path.normpath(link.parent / os.readlink(link))) if link.is_symlink() else link


def _links(experiment: str) -> list[Path]:
    top = paths.runs().parent
    # MLflow keeps the artifacts of its experiments in folders with their numbers
    own = experiment not in _TAKEN and not experiment.isdecimal()
    return [top / LATEST, *([top / experiment / LATEST] if own else [])]


def _replace(link: Path, folder: Path) -> None:
    """Let a link lead to a folder, atomically."""
    link.parent.mkdir(exist_ok=True)
    part = link.with_name(f"{LATEST}.{secrets.token_hex(4)}.part")
    part.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)
    try:
        os.replace(part, link)
    except OSError:
        part.unlink()
        raise
