"""A comparison for people: a table and plain sentences; for programs, CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator

from core.common.text import duration
from core.compare.groups import Against, Comparison, Group
from core.compare.statistics import MOST
from core.metrics.names import sign

HEADINGS = ("setting", "n", "mean", "best", "difference", "p", "time", "images/s", "parameters", "differs in")


def sentences(found: Comparison) -> Iterator[str]:
    """What is shown and what is not, one line for each setting but the baseline."""
    for one in found.against:
        yield _sentence(found, one)


def _sentence(found: Comparison, one: Against) -> str:
    base, name, difference = found.baseline.label, one.group.label, one.difference
    if difference is None:
        alone = [group.label for group in (one.group, found.baseline) if len(group.values) < 2]
        return f"{name} against {base}: {' and '.join(alone)} with a single seed: no interval"
    better, worse = (name, base) if difference.mean * sign(found.metric) > 0 else (base, name)
    low, high = sorted((difference.low, difference.high), key=abs)
    size = _amount(found.metric, abs(difference.mean))
    seeds = f"{difference.n} {'paired seeds' if difference.paired else 'seeds or more, unpaired'}"
    if one.shown:
        interval = f"{number(found.metric, abs(low))} to {number(found.metric, abs(high))}"
        corrected = f", p = {one.p:.2g} after correction" if len(found.against) > 1 else ""
        return f"{better} beats {worse} by {size} (95 % interval {interval}, {seeds}{corrected})"
    corrected = f" after correction for {len(found.against)} comparisons" if low * high > 0 else ""
    told = f"{name} against {base}: no difference shown{corrected} ({seeds})"
    if one.more is None:
        return f"{told}; {size} would take more than {MOST:,} seeds to show"
    return f"{told}; about {one.more} more seeds each would show {size}"


def _amount(metric: str, value: float) -> str:
    """0.0041 of an accuracy -> 0.41 points."""
    return f"{number(metric, value)} points" if is_share(metric) else number(metric, value)


def number(metric: str, value: float) -> str:
    """As in the table: a share in percent."""
    return f"{100 * value:.2f}" if is_share(metric) else f"{value:.4f}"


def is_share(metric: str) -> bool:
    """Whether the metric is shown in percent: an accuracy, not a loss."""
    return metric.partition("/")[0] in ("train", "val", "test") and sign(metric) > 0


def table(found: Comparison) -> list[list[str]]:
    """Rows of text under HEADINGS, best first."""
    return [_row(found, group, found.judged(group)) for group in found.groups]


def _row(found: Comparison, group: Group, one: Against | None) -> list[str]:
    mean, _, half = group.summary
    values = [value * sign(found.metric) for value in group.values.values()]
    spread = "" if math.isnan(half) else f" +- {number(found.metric, half)}"
    unit = " %" if is_share(found.metric) else ""
    judged, apart = one.difference if one else None, found.apart[group.label]
    versus = "baseline" if one is None else "one seed"
    if judged:
        low, high = (number(found.metric, end) for end in (judged.low, judged.high))
        versus = f"{'+' if judged.mean > 0 else ''}{number(found.metric, judged.mean)} [{low}, {high}]"
    return [
        group.label,
        told_n(group),
        f"{number(found.metric, mean)}{spread}{unit}",
        f"{number(found.metric, max(values) * sign(found.metric))}",
        versus,
        f"{one.p:.2g}" if one and judged else "",
        _known(group.average("seconds"), duration),
        _known(group.average("images_per_second"), lambda rate: f"{rate:,.0f}"),
        "" if (parameters := group.rows[0].parameters) is None else f"{parameters:,}",
        "" if apart in group.label else apart,
    ]


def told_n(group: Group) -> str:
    """5, or 4 of 5 where one failed."""
    n = len(group.values)
    return f"{n} of {n + len(group.failed)}" if group.failed else str(n)


def _known(value: float, told: Callable[[float], str]) -> str:
    return "" if math.isnan(value) else told(value)


def markdown(found: Comparison) -> str:
    """The table in Markdown, the sentences below it."""
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}"]
    for row in table(found):
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in sentences(found))]) + "\n"


def as_csv(found: Comparison) -> str:
    """One line for each setting, numbers unrounded, every field that differs in a column of its own."""
    stream = io.StringIO()
    out = csv.writer(stream, lineterminator="\n")
    numbers = ("mean", "deviation", "half_interval", "difference", "low", "high", "p", "parameters")
    out.writerow(["setting", "n", *numbers, *found.differing])
    for group in found.groups:
        one = found.judged(group)
        judged = one.difference if one else None
        versus = [judged.mean, judged.low, judged.high, one.p] if one and judged else [""] * 4
        fields = [group.fields.get(name, "") for name in found.differing]
        out.writerow([group.label, len(group.values), *group.summary, *versus, group.rows[0].parameters, *fields])
    return stream.getvalue()
