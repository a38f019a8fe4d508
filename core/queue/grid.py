"""The grid of `labbook queue add --grid optimizer.lr=0.1,0.2 seed=0,1`: a command line for each combination."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from core.common.errors import UserError

MOST = 10_000  # entries that one command may add


def combinations(axes: Sequence[str]) -> list[list[str]]:
    """The options of each combination, the last axis varying fastest; one without options if there are no axes.

    axes: NAME=VALUE,VALUE. Commas within brackets and quotation marks separate nothing, as in model.widths=[8,16],[32].
    Raises UserError with every error.
    """
    values: dict[str, list[str]] = {}
    wrong: list[str] = []
    for axis in axes:
        name, equals, text = axis.lstrip("-").partition("=")
        name = name.replace("-", "_")
        found = split(text)
        if not equals or not name or not all(found):
            wrong.append(f"--grid {axis}: should be NAME=VALUE,VALUE, such as optimizer.lr=0.1,0.2")
        elif name in values:
            wrong.append(f"--grid {axis}: {name} is given twice")
        elif repeated := sorted({value for value in found if found.count(value) > 1}):
            wrong.append(f"--grid {axis}: {', '.join(repeated)} is given twice")
        values[name] = found
    count = 1
    for found in values.values():
        count *= len(found)
    if count > MOST:
        wrong.append(f"--grid: {count:,} combinations are more than {MOST:,}; add fewer at a time, or use search")
    if wrong:
        raise UserError(wrong)
    return [
        [word for name, value in zip(values, chosen, strict=True) for word in (f"--{name}", value)]
        for chosen in product(*values.values())
    ]


def split(text: str) -> list[str]:
    """Split at the commas that are in no bracket and in no quotation marks."""
    parts, depth, quoted = [""], 0, False
    for char in text:
        quoted ^= char == '"'
        depth += 0 if quoted else (char in "[{(") - (char in "]})")
        if char == "," and not depth and not quoted:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts]
