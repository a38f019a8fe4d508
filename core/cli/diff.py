"""labbook diff A B: what differs between two runs: declaration, launch, code, packages, machine, data, and results.

What is equal is left out. Whether a difference of results is more than chance: labbook compare.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from core.common.arguments import VerbParser
from core.common.terminal import console, tell
from core.compare.difference import Difference, differences
from core.compare.table import format_value, in_percent
from core.record.run import RecordedRun

MOST = 15  # differences of a section that are shown, but for declaration and results
LONGEST = 40  # characters of a value
WHOLE = ("declaration", "results")


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("diff", __doc__)
    parser.add_argument("first", metavar="A", help="run")
    parser.add_argument("second", metavar="B", help="run")
    parser.add_argument("--json", action="store_true", help="print JSON with every difference, unrounded")
    given = parser.parse_args(list(words))
    runs = [RecordedRun.load(word) for word in (given.first, given.second)]
    found = differences(*runs)
    if given.json:
        rows = [asdict(one) | {"first": _plain(one.first), "second": _plain(one.second)} for one in found]
        print(json.dumps({"first": runs[0].id, "second": runs[1].id, "differences": rows}, indent=1, default=str))
    else:
        _show(runs[0].id, runs[1].id, found)
    return 0


def _show(first: str, second: str, found: Sequence[Difference]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    tell(f"A: {first}")
    tell(f"B: {second}")
    sections = list(dict.fromkeys(one.section for one in found))
    for section in sections:
        own = [one for one in found if one.section == section]
        grid = Table(box=SIMPLE_HEAD)
        for heading in (section, "A", "B", *(["B - A"] if section == "results" else [])):
            grid.add_column(heading, overflow="fold")
        shown = own if section in WHOLE else own[:MOST]
        for one in shown:
            change = [_change(one)] if section == "results" else []
            grid.add_row(one.name, _text(one, one.first), _text(one, one.second), *change)
        console().print(grid, highlight=False)
        if len(own) > len(shown):
            tell(f"  and {len(own) - len(shown):,} more; --json gives all")
    if "declaration" not in sections:
        tell("the declarations are the same")
    if not found:
        tell("nothing differs")


def _text(one: Difference, value: Any) -> str:
    """A value for the table."""
    if value is None or value == "":
        return "-"
    if one.section == "results" and isinstance(value, float):
        return format_value(one.name, value)
    text = " ".join(str(value).split())
    if re.fullmatch("[0-9a-f]{40,64}", text):  # a digest, or a commit
        return text[:12]
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _change(one: Difference) -> str:
    """The second result minus the first one."""
    if not (isinstance(one.first, float) and isinstance(one.second, float)):
        return ""
    change = one.second - one.first
    return f"{100 * change:+.2f}" if in_percent(one.name) else f"{change:+.4f}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
