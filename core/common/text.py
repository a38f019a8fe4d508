"""Text functions: names and their nearest spellings, durations, URIs without passwords."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

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


def duration(seconds: float) -> str:
    """Format a duration: "1 min 30 s" for 90, "2 h 1 min" for 7260."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


# all control characters but tab and line break, directions of writing (which reorder a line), tags, lone surrogates
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str, encoding: str | None = "utf-8") -> str:
    """Escape characters that control a terminal, as in a Python string, and those that the encoding lacks.

    Names of runs, classes and files come from outside; a terminal would obey what they contain.
    """
    safe = _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return safe.encode(encoding or "ascii", "backslashreplace").decode(encoding or "ascii")


def public(text: str) -> str:
    """Remove users and passwords from the URIs in a text, so that it can be written to a file."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)
