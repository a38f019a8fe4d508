"""Present a comparison as a table, as sentences, as LaTeX, and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator

from core.common.statistics import mean_and_interval
from core.common.text import duration
from core.compare.comparison import IMAGES, Comparison, Contrast
from core.compare.groups import Group
from core.compare.statistics import MOST
from core.metrics.names import is_fraction

FIRST, LAST = ("setting", "n", "mean", "best", "difference", "p"), ("time", "images/s", "parameters", "differs in")


def headings(comparison: Comparison) -> tuple[str, ...]:
    """The names of the columns."""
    return (*FIRST, *comparison.beside, *LAST)


def sentences(comparison: Comparison) -> Iterator[str]:
    """Yield one sentence for each setting but the baseline: whether it differs significantly, and by how much; and
    which settings may be the best."""
    for one in comparison.contrasts:
        only = one.difference is not None and one.difference.share == 1
        yield _sentence(comparison, one) + f"; other {what(comparison)} may differ" * only
    if comparison.worse and len(comparison.groups) > 2:
        rest = [group.label for group in comparison.groups if group.label not in comparison.worse]
        yield f"may be the best: {', '.join(rest)} (each other setting is shown to be worse than one of these)"


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
    low, high = sorted((one.low, one.high), key=abs)
    size = _amount(comparison.metric, abs(difference.mean))
    over = _over(comparison, one)
    if one.significant:  # both ends have the same sign
        better, worse = (name, base) if low * (comparison.direction or 1) > 0 else (base, name)
        interval = f"{format_value(comparison.metric, abs(low))} to {format_value(comparison.metric, abs(high))}"
        p = f", p = {one.p:.2g}"
        beats = f"beats {worse} by" if comparison.direction else f"has a larger {comparison.metric} than {worse}, by"
        return f"{better} {beats} {size} (95 % interval {interval}, {over}{p})"
    if comparison.equivalent is not None:
        known = "shown to be" if one.margin <= comparison.equivalent else "not shown to be"
        margins = f"{known} within {_amount(comparison.metric, comparison.equivalent)}"
        closest = f"shown within {_amount(comparison.metric, one.margin)}"
        return f"{name} against {base}: no difference shown; {margins} of it ({closest}, {over})"
    result = f"{name} against {base}: no difference shown ({over})"
    # over images alone, or of a size that no number of seeds would show
    if difference.share == 1 or float(format_value(comparison.metric, difference.mean)) == 0:
        return result
    if one.more is None:
        more = " or more images" if difference.share else ""
        return f"{result}; {size} would take more than {MOST:,} {what(comparison)}{more} to show"
    return f"{result}; {one.more} more {what(comparison)} each would show a difference of {size} in 4 of 5 cases"


def what(comparison: Comparison) -> str:
    """What the values of a setting are of: seeds, folds, or runs in general."""
    folds = [group.overlap > 0 for group in comparison.groups]
    return "runs" if comparison.by or any(folds) != all(folds) else "folds" if all(folds) else "seeds"


def _over(comparison: Comparison, one: Contrast) -> str:
    """What a difference is a mean over, with the means of the pairs if the table has those of more runs."""
    assert one.difference is not None
    difference, groups = one.difference, (one.group, comparison.baseline)
    images = f"{difference.images:,} {comparison.scores.what}" if comparison.scores else ""
    if difference.share == 1:
        return f"over {images} only{', by the exact McNemar test' * bool(difference.flips)}{_look(one)}"
    images = f" x {images}" * bool(images)
    if not difference.paired:
        return f"{difference.n} {what(comparison)} or more, unpaired{images}{_look(one)}"
    pairs = f"{difference.n} paired {what(comparison)}{images}"
    pairs += f", alike in all but {comparison.by}" if comparison.by else ""
    pairs += _look(one)
    if all(len(group.values) == difference.n for group in groups):
        return pairs
    means = " and ".join(
        f"{format_value(comparison.metric, mean)} of {group.label}"
        for mean, group in zip(difference.means, groups, strict=True)
    )
    return f"{pairs}, with the means {means}"


def foot(comparison: Comparison) -> str:
    """What the intervals are over, in one sentence."""
    scores, runs = comparison.scores, what(comparison)
    seeds = runs
    if all(group.fields.get("vary") == "split" for group in comparison.groups):
        seeds += ", each with a val split of its own,"
    if not scores or not comparison.contrasts:
        why = f" ({comparison.why})" if comparison.why else ""
        return f"intervals are over {seeds} alone: other images may differ{why}"
    split = comparison.metric.partition("/")[0]
    images = f"the {scores.images:,} {split} images" + " that all runs have answered" * bool(scores.left_out)
    if scores.what == "groups":
        images = f"{len(next(iter(scores.values.values()))):,} groups of {images}"
    images += f" ({scores.left_out:,} others are left out)" * bool(scores.left_out)
    single = all(len(group.values) == 1 for group in comparison.groups)
    known = [one.difference for one in comparison.contrasts if one.difference]
    alone = single or comparison.unit == IMAGES or (bool(known) and all(each.share == 1 for each in known))
    over = f"{images} alone" if alone else f"{seeds} and {images}"
    return f"intervals of differences are over {over}" + f"; those of means are over {seeds} alone" * (not single)


def _look(one: Contrast) -> str:
    """Which look it is at these settings, if it is not the first one."""
    return f", look {one.look}" if one.look > 1 else ""


def _amount(metric: str, value: float) -> str:
    """A difference with its unit: 0.0041 of an accuracy is 0.41 points."""
    return f"{format_value(metric, value)} points" if in_percent(metric) else format_value(metric, value)


def format_value(metric: str, value: float) -> str:
    """Format a value of a metric as in the table, without a minus before zero; accuracies are in percent."""
    return f"{100 * value:z.2f}" if in_percent(metric) else f"{value:z.4f}"


def in_percent(metric: str) -> bool:
    """Whether the metric is shown in percent: an accuracy, not a loss."""
    split, _, quantity = metric.partition("/")
    return split in ("train", "val", "test") and is_fraction(quantity)


def table(comparison: Comparison) -> list[list[str]]:
    """Returns the rows of the table as text, one cell for each of `headings`, the best setting first."""
    return [_row(comparison, group, comparison.contrast_of(group)) for group in comparison.groups]


def _row(comparison: Comparison, group: Group, one: Contrast | None) -> list[str]:
    mean, _, half = group.summary
    finite = [value for value in group.values.values() if not math.isnan(value)] or [math.nan]
    best = (max if comparison.direction == 1 else min)(finite) if comparison.direction else None
    spread = "" if math.isnan(half) else f" +- {format_value(comparison.metric, half)}"
    unit = " %" if in_percent(comparison.metric) else ""
    difference, apart = one.difference if one else None, comparison.distinctive[group.label]
    versus = "baseline" if one is None else reason(comparison, one)
    if one and difference:
        low, high = (format_value(comparison.metric, end) for end in (one.low, one.high))
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
        *(_mean_of(group, name) for name in comparison.beside),
        _known(group.average("seconds"), duration),
        _known(group.average("images_per_second"), lambda rate: f"{rate:,.0f}"),
        "" if (parameters := group.rows[0].parameters) is None else f"{parameters:,}",
        "" if apart in group.label else apart,
    ]


def _mean_of(group: Group, name: str) -> str:
    """The mean of a metric that is told beside the compared one, with half of its interval."""
    mean, _, half = mean_and_interval(list(group.beside[name].values()), group.overlap)
    return f"{mean:.4f}" if math.isnan(half) else f"{mean:.4f} +- {half:.4f}"


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
    names = headings(comparison)
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for row in table(comparison):
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in sentences(comparison))]) + "\n"


def latex(comparison: Comparison) -> str:
    """Returns a table for LaTeX with the package booktabs: means with half widths of their 95 % intervals, the settings
    that may be the best in bold, and differences from the baseline with their intervals."""
    unit = r" (\%)" if in_percent(comparison.metric) else ""
    lines = [r"\begin{table}", r"\centering", r"\begin{tabular}{lrrr}", r"\toprule"]
    lines += [rf"setting & $n$ & {_escaped(comparison.metric)}{unit} & difference \\", r"\midrule"]
    best = comparison.direction and comparison.worse
    for group in comparison.groups:
        mean, _, half = group.summary
        number = format_value(comparison.metric, mean)
        number = rf"\mathbf{{{number}}}" if best and group.label not in comparison.worse else number
        spread = "" if math.isnan(half) else rf" \pm {format_value(comparison.metric, half)}"
        one = comparison.contrast_of(group)
        versus = "baseline" if one is None else "--"
        if one and one.difference:
            each = [format_value(comparison.metric, x) for x in (one.difference.mean, one.low, one.high)]
            versus = rf"${each[0]}$ [${each[1]}$, ${each[2]}$]"
        lines.append(rf"{_escaped(group.label)} & {format_n(group)} & ${number}{spread}$ & {versus} \\")
    sizes = sorted({len(group.values) for group in comparison.groups})
    n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    bold = " Bold: settings that are not shown to be worse than another one." if best else ""
    caption = f"{_escaped(comparison.metric)}: mean over $n = {n}$ {what(comparison)} with its 95\\,\\% interval, and "
    caption += f"difference from {_escaped(comparison.baseline.label)} with its interval, corrected for "
    caption += f"{len(comparison.contrasts)} comparisons and for looks.{bold}"
    over = foot(comparison)
    caption += f" {over[0].upper()}{_escaped(over[1:])}."
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}", ""])


def _escaped(text: str) -> str:
    """Text with the characters that LaTeX gives a meaning."""
    escapes = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    escapes |= {mark: f"\\{mark}" for mark in "&%$#_{}"}
    return "".join(escapes.get(letter, letter) for letter in text)


def as_csv(comparison: Comparison) -> str:
    """Returns CSV with one line for each setting, unrounded numbers, and a column for each field that differs."""
    stream = io.StringIO()
    out = csv.writer(stream, lineterminator="\n")
    numbers = ("mean", "deviation", "half_interval", "difference", "low", "high", "p", "parameters")
    out.writerow(["setting", "n", *numbers, *comparison.differing])
    for group in comparison.groups:
        one = comparison.contrast_of(group)
        difference = one.difference if one else None
        versus = [difference.mean, one.low, one.high, one.p] if one and difference else [""] * 4
        fields = [group.fields.get(name, "") for name in comparison.differing]
        out.writerow([group.label, len(group.values), *group.summary, *versus, group.rows[0].parameters, *fields])
    return stream.getvalue()
