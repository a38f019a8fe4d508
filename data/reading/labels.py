"""Class names from the labels of a table, in an order that does not depend on the order of the rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from data.reading.progress import first

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


def class_names(labels: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """(sorted class names, error lines).

    Labels that are all integers, as numbers or text, are sorted by value, all others alphabetically. Numbers with a
    fraction are an error.
    """
    names = sorted(set(labels))
    if names and all(_WHOLE_NUMBER.fullmatch(name) for name in names):
        names.sort(key=lambda name: (int(name), name))
        twice = [f"{a} and {b}" for a, b in itertools.pairwise(names) if int(a) == int(b)]
        return tuple(names), [f"labels {pair} are the same number; use one spelling" for pair in twice]
    if names and all(_NUMBER.fullmatch(name) for name in names):
        broken = ", ".join(first([name for name in names if not _WHOLE_NUMBER.fullmatch(name)], 5))
        return tuple(names), [f"labels must be integers or class names, not {broken}"]
    return tuple(names), []
