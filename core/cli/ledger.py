"""labbook ledger: how often the test split of each data set has been read.

Finished runs, `labbook evaluate` on the test split and accepted exports are counted, in this home folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.common.arguments import VerbParser
from core.common.terminal import console, tell
from core.record.ledger import readings


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    VerbParser("ledger", __doc__).parse_args(list(words))
    found = sorted(readings().values(), key=lambda one: -one.total)
    if not found:
        tell("no test split has been read")
        return 0
    grid = Table(box=SIMPLE_HEAD)
    for heading in ("data", "digest", "readings", "by", "first", "last"):
        grid.add_column(heading, justify="right" if heading == "readings" else "left")
    for one in found:
        each = ", ".join(f"{by} {count:,}" for by, count in sorted(one.counts.items()))
        grid.add_row(one.name, one.digest[:12], f"{one.total:,}", each, one.first, one.last)
    console().print(grid, highlight=False)
    return 0
