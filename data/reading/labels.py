"""Class names from the labels of a table, in an order that does not depend on the order of the rows."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from decimal import Decimal

from core.common.text import natural
from data.reading.progress import first

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?|nan|[-+]?inf", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


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
