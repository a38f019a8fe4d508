"""The tables of measured exports, for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from core.export.latency import BATCHES, Latency
from core.export.measured import Measured

if TYPE_CHECKING:
    from rich.table import Table

Rows = list[list[str]]  # of cells; the first row has the names of the columns


def answers(found: Sequence[Measured]) -> Rows:
    """What each export answers, and whether it was accepted, or kept all the same."""
    rows = [["format", "size", "golden images", "points lost on val", "95 % interval", "test (eager)", ""]]
    for one in found:
        test = "not read" if one.test is None else f"{one.test:.2%} ({one.eager_test:.2%})"
        interval = f"{100 * one.val.low:z.2f} to {100 * one.val.high:z.2f}"
        golden = f"{one.golden:.0e}" if one.latency else ""
        verdict = ("refused, kept" if one.folder else "refused") if one.refused else "accepted"
        rows.append(
            [one.name, f"{one.size / 1e6:.2f} MB", golden, f"{100 * one.val.share:z.2f}", interval, test, verdict]
        )
    return rows


def latencies(times: Mapping[str, Mapping[int, Latency]]) -> Rows:
    """The latency of each engine; ratios are against the first one, the median over turns."""
    rows = [["engine", "batch", "p50", "p99", "images/s", "ratio", "calls"]]
    for size in BATCHES:
        for name, each in times.items():
            if size in each:
                one = each[size]
                cells = [f"{one.p50:.2f} ms", f"{one.p99:.2f} ms", f"{one.rate:,.0f}", f"{one.ratio:.2f}x"]
                rows.append([name, str(size), *cells, f"{one.calls:,}"])
    return rows


def grid(rows: Rows) -> Table:
    """The rows for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD)
    for number, name in enumerate(rows[0]):
        made.add_column(name, justify="right" if number else "left")
    for row in rows[1:]:
        made.add_row(*row)
    return made
