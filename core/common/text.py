"""Text functions: names and their nearest spellings, durations, URIs without passwords."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from core.common.spellings import metric


def snake(name: str) -> str:
    """Convert CamelCase to snake_case: random_crop for RandomCrop, sgd for SGD."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Returns the known names closest to `name`, best first; names with the same last component count as close."""
    known = list(known)
    same = [k for k in known if "/" in k and k.rsplit("/", 1)[-1] == metric(name)]  # val_acc, top1: val/accuracy
    close = [] if same else difflib.get_close_matches(name, known, n=n, cutoff=0.6)
    leaf = name.rsplit(".", 1)[-1]
    return list(dict.fromkeys([*same, *close, *(k for k in known if k.rsplit(".", 1)[-1] == leaf)]))[:n]


def did_you_mean(name: str, known: Iterable[str], mark: str = "") -> str:
    """Returns the end of a message, "; did you mean A or B?", or nothing. mark: precedes each name, such as --."""
    close = nearest(name, [other for other in known if other != name])
    return f"; did you mean {' or '.join(mark + each for each in close)}?" if close else ""


def suggestion(name: str, known: Iterable[str], mark: str = "") -> str:
    """Returns the end of a message: the nearest names or, without any, all of them; nothing if `known` is empty."""
    known = list(known)
    everything = f"; choose one of {', '.join(mark + each for each in known)}" if known else ""
    return did_you_mean(name, known, mark) or everything


def numbered(labels: list[str]) -> list[str]:
    """Make labels unique: repeated ones get a number, starting at 2."""
    before = [labels[:i].count(label) for i, label in enumerate(labels)]
    return [label if not n else f"{label}_{n + 1}" for label, n in zip(labels, before, strict=True)]


def natural(names: Iterable[str]) -> tuple[str, ...]:
    """The names in the one order of class names: integers by value, digits within names as numbers (a2 before a10), all
    else by code point."""
    names = list(names)
    whole = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    return tuple(sorted(names, key=lambda name: (Decimal(name) if whole else _chunks(name), name)))


def _chunks(name: str) -> list[Any]:
    """Text and numbers in turn; a number, of any length, by the count of its digits and then by them."""
    chunks = re.split(r"([0-9]+)", name)
    return [(len(chunk.lstrip("0")), chunk.lstrip("0")) if at % 2 else chunk for at, chunk in enumerate(chunks)]


def listed(names: Sequence[str], shown: int = 12) -> str:
    """Names in their order, separated by commas; of more than `shown`, the first and the last ones. Control characters
    are escaped."""
    safe = [name if name.isprintable() else ascii(name) for name in names]
    return ", ".join(safe if len(safe) <= shown else [*safe[: shown - 3], "...", *safe[-2:]])


def duration(seconds: float) -> str:
    """Format a duration: "1 min 30 s" for 90, "2 h 1 min" for 7260."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def public(text: str) -> str:
    """Remove users and passwords from the URIs in a text, so that it can be written to a file."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)
