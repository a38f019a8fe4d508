"""Present a comparison as a table, as sentences, and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator

from core.common.text import duration
from core.compare.groups import Comparison, Contrast, Group
from core.compare.statistics import LEVEL, MOST
from core.metrics.names import FRACTIONS

HEADINGS = ("setting", "n", "mean", "best", "difference", "p", "time", "images/s", "parameters", "differs in")


def sentences(comparison: Comparison) -> Iterator[str]:
    """Yield one sentence for each setting but the baseline: whether it differs significantly, and by how much."""
    for one in comparison.contrasts:
        yield _sentence(comparison, one)


def _sentence(comparison: Comparison, one: Contrast) -> str:
    base, name, difference = comparison.baseline.label, one.group.label, one.difference
    if difference is None:
        odd = [g.label for g in (one.group, comparison.baseline) if not all(map(math.isfinite, g.values.values()))]
        if odd:
            return (
                f"{name} against {base}: not compared, because {comparison.metric} of {' and '.join(odd)} is not finite"
            )
        alone = [group.label for group in (one.group, comparison.baseline) if len(group.values) < 2]
        return f"{name} against {base}: {' and '.join(alone)} with a single {what(comparison)[:-1]}: no interval"
    better, worse = (name, base) if difference.mean * (comparison.direction or 1) > 0 else (base, name)
    low, high = sorted((difference.low, difference.high), key=abs)
    size = _amount(comparison.metric, abs(difference.mean))
    over = _over(comparison, one)
    corrected = f" after correction for {len(comparison.contrasts)} comparisons"
    if one.significant:
        interval = f"{format_value(comparison.metric, abs(low))} to {format_value(comparison.metric, abs(high))}"
        p = f", p = {one.p:.2g}, corrected like the interval" if len(comparison.contrasts) > 1 else ""
        beats = f"beats {worse} by" if comparison.direction else f"has a larger {comparison.metric} than {worse}, by"
        return f"{better} {beats} {size} (95 % interval {interval}, {over}{p})"
    result = f"{name} against {base}: no difference shown{corrected if difference.p < LEVEL else ''} ({over})"
    if one.more is None:
        return f"{result}; {size} would take more than {MOST:,} {what(comparison)} to show"
    return f"{result}; about {one.more} more {what(comparison)} each would show {size}"


def what(comparison: Comparison) -> str:
    """What the values of a setting are of: seeds, folds, or runs in general."""
    folds = [group.overlap > 0 for group in comparison.groups]
    return "runs" if comparison.by or any(folds) != all(folds) else "folds" if all(folds) else "seeds"


def _over(comparison: Comparison, one: Contrast) -> str:
    """What a difference is a mean over, with the means of the pairs if the table has those of more runs."""
    assert one.difference is not None
    difference, groups = one.difference, (one.group, comparison.baseline)
    if not difference.paired:
        return f"{difference.n} {what(comparison)} or more, unpaired"
    pairs = f"{difference.n} paired {what(comparison)}"
    pairs += f", alike in all but {comparison.by}" if comparison.by else ""
    if all(len(group.values) == difference.n for group in groups):
        return pairs
    means = " and ".join(
        f"{format_value(comparison.metric, mean)} of {group.label}"
        for mean, group in zip(difference.means, groups, strict=True)
    )
    return f"{pairs}, with the means {means}"


def _amount(metric: str, value: float) -> str:
    """A difference with its unit: 0.0041 of an accuracy is 0.41 points."""
    return f"{format_value(metric, value)} points" if in_percent(metric) else format_value(metric, value)


def format_value(metric: str, value: float) -> str:
    """Format a value of a metric as in the table; accuracies are in percent."""
    return f"{100 * value:.2f}" if in_percent(metric) else f"{value:.4f}"


def in_percent(metric: str) -> bool:
    """Whether the metric is shown in percent: an accuracy, not a loss."""
    split, _, quantity = metric.partition("/")
    return split in ("train", "val", "test") and quantity in FRACTIONS


def table(comparison: Comparison) -> list[list[str]]:
    """Returns the rows of the table as text, one cell for each of HEADINGS, the best setting first."""
    return [_row(comparison, group, comparison.contrast_of(group)) for group in comparison.groups]


def _row(comparison: Comparison, group: Group, one: Contrast | None) -> list[str]:
    mean, _, half = group.summary
    finite = [value for value in group.values.values() if not math.isnan(value)] or [math.nan]
    best = (max if comparison.direction == 1 else min)(finite) if comparison.direction else None
    spread = "" if math.isnan(half) else f" +- {format_value(comparison.metric, half)}"
    unit = " %" if in_percent(comparison.metric) else ""
    difference, apart = one.difference if one else None, comparison.distinctive[group.label]
    versus = "baseline" if one is None else reason(comparison, one)
    if difference:
        low, high = (format_value(comparison.metric, end) for end in (difference.low, difference.high))
        versus = (
            f"{'+' if difference.mean > 0 else ''}{format_value(comparison.metric, difference.mean)} [{low}, {high}]"
        )
        if difference.paired and max(len(group.values), len(comparison.baseline.values)) > difference.n:
            versus += f" ({difference.n} pairs)"
    return [
        group.label,
        format_n(group),
        f"{format_value(comparison.metric, mean)}{spread}{unit}",
        "" if best is None else format_value(comparison.metric, best),
        versus,
        f"{one.p:.2g}" if one and difference else "",
        _known(group.average("seconds"), duration),
        _known(group.average("images_per_second"), lambda rate: f"{rate:,.0f}"),
        "" if (parameters := group.rows[0].parameters) is None else f"{parameters:,}",
        "" if apart in group.label else apart,
    ]


def reason(comparison: Comparison, one: Contrast) -> str:
    """Why a setting has no difference to the baseline, in two words."""
    alone = min(len(group.values) for group in (one.group, comparison.baseline)) < 2
    return f"one {what(comparison)[:-1]}" if alone else "not finite"


def format_n(group: Group) -> str:
    """Format the number of seeds: 5, or "4 of 5" if one failed."""
    n = len(group.values)
    return f"{n} of {n + len(group.failed)}" if group.failed else str(n)


def _known(value: float, text: Callable[[float], str]) -> str:
    return "" if math.isnan(value) else text(value)


def markdown(comparison: Comparison) -> str:
    """Returns the table in Markdown, with the sentences below it."""
    lines = [f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}"]
    for row in table(comparison):
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in sentences(comparison))]) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Returns CSV with one line for each setting, unrounded numbers, and a column for each field that differs."""
    stream = io.StringIO()
    out = csv.writer(stream, lineterminator="\n")
    numbers = ("mean", "deviation", "half_interval", "difference", "low", "high", "p", "parameters")
    out.writerow(["setting", "n", *numbers, *comparison.differing])
    for group in comparison.groups:
        one = comparison.contrast_of(group)
        difference = one.difference if one else None
        versus = [difference.mean, difference.low, difference.high, one.p] if one and difference else [""] * 4
        fields = [group.fields.get(name, "") for name in comparison.differing]
        out.writerow([group.label, len(group.values), *group.summary, *versus, group.rows[0].parameters, *fields])
    return stream.getvalue()
