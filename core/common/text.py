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
    same_leaf = [k for k in known if k.rsplit(".", 1)[-1] == leaf and k not in close]
    return list(dict.fromkeys([*same, *close[: n - bool(same_leaf)], *same_leaf]))[:n]


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


def few(names: Iterable[str], shown: int = 8) -> str:
    """The first names, separated by commas, and how many more there are, for a message. Control characters are
    escaped."""
    safe = [name if name.isprintable() else ascii(name) for name in names]
    return ", ".join(safe[:shown]) + (f" and {len(safe) - shown:,} more" if len(safe) > shown else "")


def duration(seconds: float) -> str:
    """Format a duration: "1 min 30 s" for 90, "2 h 1 min" for 7260."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: int) -> str:
    """Format a number of bytes: "1.5 MB", "2.0 GB"."""
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.1f} MB"


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


_SECRET = r"[?&;][^=&;\s]*(?:pass|pwd|secret|token|key|auth|credential|sig)[^=&;\s]*="  # of a query: its name


def public(text: str, whole: bool = False) -> str:
    """Remove users and passwords from the URIs in a text, so that it can be printed or written to a file.

    Passwords may contain "/" and "@", as in a URI that is not well-formed; in doubt, more is removed. Of a query, the
    values that a name such as `password` or `token` announces become ***.  whole: the text is one URI (or an option
    with one), whose password may contain spaces, too.
    """
    end, value = (r"[\s\S]*", "[^&;]*") if whole else (r"\S*", r"[^&;\s]*")
    text = re.sub(f"(?<=://){end}", lambda found: _without_user(found[0]), text)
    return re.sub(f"({_SECRET}){value}", r"\1***", text, flags=re.I)  # also without ://, as in messages of HTTP clients


def _without_user(rest: str) -> str:
    """The rest of a URI behind "://", without user and password; *** if a password in it cannot be told from a host."""
    secret = re.search(_SECRET, rest, re.I)
    place, query = (rest[: secret.start()], rest[secret.start() :]) if secret else (rest, "")
    if "@" in query and re.search("[:@]", place):
        return "***"
    # a path, as of SQLite, has no user
    return (place if place.startswith("/") else place.rpartition("@")[2]) + query


def without_paths(text: str) -> str:
    """Returns the text without users, passwords and paths of the web addresses in it: a path is often a secret."""
    return re.sub(r"(https?://)(?:[^/\s]*@)?([^/\s]+)/\S*", r"\1\2/***", text, flags=re.IGNORECASE)


def unquoted(uri: str) -> str | None:
    """Returns a character of the password in a URI that has to be percent-encoded, because a program would take a part
    of the password for the host, and print it; None if there is none."""
    rest = uri.partition("://")[2]
    if rest.startswith("/"):
        return None
    if _without_user(rest) == "***":
        return "@"
    secret = re.search(_SECRET, rest, re.I)
    user = rest[: secret.start() if secret else None].rpartition("@")[0]
    return next((char for char in user if char in "/@?#[] "), None)
