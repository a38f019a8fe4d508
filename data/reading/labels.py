"""Class names from the labels of a table, in an order that does not depend on the order of the rows."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from core.common.text import natural
from data.reading.progress import first, printable, say

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


_MISSING = ("nan", "none", "null", "na", "n/a", "<na>", "?")


def doubts(classes: Iterable[str]) -> list[str]:
    """A line for each set of class names that are probably one class, or none."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault(" ".join(unicodedata.normalize("NFKC", name).casefold().split()), []).append(name)
    lines = []
    for plain, names in groups.items():
        if len(names) > 1:
            looks = {unicodedata.normalize("NFC", name) for name in names}
            shown = " and ".join(printable(name) if len(looks) == len(names) else ascii(name) for name in names)
            lines.append(f"{shown} are {len(names)} classes, but differ only in case, spaces or the form of accents")
        if plain in _MISSING:
            lines.append(
                f"{printable(names[0])} is read as the name of a class; remove these images if it means no label"
            )
    return lines


def tell_doubts(source: Path, classes: Iterable[str]) -> None:
    """Print the doubts about the class names of a source."""
    for line in first(doubts(classes), 10):
        say(f"warning: {source.name}: {line}")


def class_names(labels: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """(class names in their natural order, error lines).

    Labels that are all integers, as numbers or text, are in the order of their values. Numbers with a fraction are an
    error.
    """
    names = natural(set(labels))
    if names and all(_WHOLE_NUMBER.fullmatch(name) for name in names):
        twice = [f"{a} and {b}" for a, b in itertools.pairwise(names) if Decimal(a) == Decimal(b)]
        return names, [f"labels {pair} are the same number; use one spelling" for pair in twice]
    if names and all(_NUMBER.fullmatch(name) for name in names):
        broken = ", ".join(first([name for name in names if not _WHOLE_NUMBER.fullmatch(name)], 5))
        return names, [f"labels must be integers or class names, not {broken}"]
    return names, []
