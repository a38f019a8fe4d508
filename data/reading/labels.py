"""Labels of a table -> names of classes, in an order that is the same whatever the rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from data.reading.terminal import first

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


def class_names(labels: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """(classes in their order, what is wrong with them).

    Labels that are whole numbers, as numbers or as text, are class names in the order of their values; all others in
    the order of the alphabet. A number with a fraction is the name of no class.
    """
    names = sorted(set(labels))
    if names and all(_WHOLE_NUMBER.fullmatch(name) for name in names):
        names.sort(key=lambda name: (int(name), name))
        twice = [f"{a} and {b}" for a, b in itertools.pairwise(names) if int(a) == int(b)]
        return tuple(names), [f"labels {pair} are one number; write it in one way" for pair in twice]
    if names and all(_NUMBER.fullmatch(name) for name in names):
        broken = ", ".join(first([name for name in names if not _WHOLE_NUMBER.fullmatch(name)], 5))
        return tuple(names), [f"labels are numbers, and {broken} not whole: write whole numbers, or names of classes"]
    return tuple(names), []
