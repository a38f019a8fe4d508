"""Forest plot of a comparison: a row for each setting with its seeds, mean and interval, and its difference."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.common.fonts import drawing, one_line
from core.compare.comparison import Comparison, Contrast
from core.compare.groups import Group
from core.compare.table import format_n, format_value, in_percent, markdown, reason

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".svg", ".png")
MOST = 30  # settings drawn, the best ones and the baseline
WIDTH, LETTERS = 8.0, 26  # width in inches, and letters per line of a label; legible when shown 700 pixels wide
ROW, LINE, REST = 0.46, 0.14, 1.2  # heights in inches: a setting, a further line of its label, titles and axes
INK, PALE, BAND = "#24292f", "#8c959f", "#f6f8fa"
# distinguishable by the color-blind too (Okabe and Ito 2008)
BETTER, WORSE, OTHER, EVEN = "#0072b2", "#d55e00", "#a0568a", "#57606a"
NO_BREAK = "\u00a0"


def forest(comparison: Comparison) -> Figure:
    """Draw the settings of a comparison, the best on top.

    The left side shows the seeds as dots, the mean and the 95 % interval; the right side shows the difference to the
    baseline.
    """
    groups = drawn(comparison)
    with drawing([comparison.metric, *(group.label for group in groups)]) as text:
        return _forest(comparison, groups, text)


def _forest(comparison: Comparison, groups: Sequence[Group], text: Callable[[str], str]) -> Figure:
    from matplotlib.figure import Figure

    wrapped = [textwrap.wrap(one_line(_label(group)), LETTERS, break_long_words=True) for group in groups]
    labels = ["\n".join(map(text, lines)) for lines in wrapped]
    tall = [ROW + LINE * label.count("\n") for label in labels]
    middles = np.cumsum(tall) - np.array(tall) / 2
    figure = Figure(figsize=(WIDTH, sum(tall) + REST), dpi=110, layout="constrained", facecolor="white")
    compared = len(groups) > 1
    left, *right = figure.subplots(1, 1 + compared, sharey=True, width_ratios=(1.25, 1)[: 1 + compared], squeeze=False)[
        0
    ]
    for axes in (left, *right):
        _prepare(axes, middles, tall)
    left.set_yticks(middles, labels, fontsize=10, color=INK)
    for place, group in enumerate(groups):
        left.get_yticklabels()[place].set_fontweight("bold" if compared and group is comparison.baseline else "normal")
        _seeds(left, comparison, group, middles[place])
        for axes in right:
            _difference(axes, comparison, comparison.contrast_of(group), middles[place])
    better = {1: "\nmore is better", -1: "\nless is better", None: ""}[comparison.direction]
    unit = ", %" if in_percent(comparison.metric) else ""
    _set_titles(left, text(f"{comparison.metric}{unit}"), f"bar: mean and 95 % interval; dots: seeds{better}")
    for axes in right:
        points = ", points" if in_percent(comparison.metric) else ""
        _set_titles(axes, f"difference{points}", "to the baseline (bold);\ncolored if significant")
        axes.axvline(0, color=INK, linewidth=1, zorder=1)
    return figure


def drawn(comparison: Comparison) -> list[Group]:
    """Returns the settings to draw: the best ones and the baseline."""
    best = comparison.groups[:MOST]
    return [*best] if comparison.baseline in best else [*best[:-1], comparison.baseline]


def save(comparison: Comparison, path: Path) -> None:
    """Save the plot as SVG or PNG, depending on the suffix, with its table as metadata. Raises OSError."""
    from matplotlib import rc_context

    plain = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    # equal numbers give equal files; text is stored as text, which keeps the file small
    with rc_context({"svg.hashsalt": "labbook", "svg.fonttype": "none"}):
        described = "\n".join(map(one_line, markdown(comparison).split("\n")))
        forest(comparison).savefig(path, metadata={"Description": described, **plain})


def embedded_table(path: Path) -> str | None:
    """Returns the Markdown table in a picture that `save` wrote; None if the file is not such a picture."""
    from xml.etree import ElementTree

    from PIL import Image

    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                return image.info.get("Description")
        return ElementTree.parse(path).findtext(".//{http://purl.org/dc/elements/1.1/}description")
    except (OSError, ElementTree.ParseError):
        return None


def _label(group: Group) -> str:
    n = f"(n = {format_n(group)})".replace(" ", NO_BREAK)
    return f"{group.label} {n}"


def _scaled(comparison: Comparison, values: list[float]) -> list[float]:
    return [100 * value if in_percent(comparison.metric) else value for value in values]


def _prepare(axes: Axes, middles: np.ndarray, tall: list[float]) -> None:
    """Shade every second row, to connect each label with its difference."""
    for place, (middle, height) in enumerate(zip(middles, tall, strict=True)):
        if place % 2 == 0:
            axes.axhspan(middle - height / 2, middle + height / 2, color=BAND, linewidth=0, zorder=0)
    axes.set_ylim(sum(tall), 0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", colors=EVEN, labelsize=9)
    axes.grid(axis="x", color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=6)


def _set_titles(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel(below, fontsize=9, color=EVEN, loc="left")


def _seeds(axes: Axes, comparison: Comparison, group: Group, y: float) -> None:
    """Draw the mean and, below it, the seeds, so that neither hides the other."""
    mean, _, half = group.summary
    color = _color(comparison, comparison.contrast_of(group))
    values = _scaled(comparison, sorted(group.values.values()))
    stacked = [y + 0.08 + 0.05 * min(values[:i].count(value), 2) for i, value in enumerate(values)]
    axes.plot(values, stacked, "o", color=color, alpha=0.45, markersize=5, markeredgewidth=0)
    _interval(
        axes, comparison, (mean, mean - half, mean + half), y - 0.02, color, format_value(comparison.metric, mean)
    )


def _difference(axes: Axes, comparison: Comparison, one: Contrast | None, y: float) -> None:
    if one is None or one.difference is None:
        text = "baseline" if one is None else f"{reason(comparison, one)}: no interval"
        free, side = ("right", -6) if _mostly_below(comparison) else ("left", 6)
        axes.annotate(text, (0, y), (side, 0), textcoords="offset points", va="center", ha=free, fontsize=9, color=EVEN)
        return
    ends = (one.difference.mean, one.low, one.high)
    text = f"{'+' if one.difference.mean > 0 else ''}{format_value(comparison.metric, one.difference.mean)}"
    _interval(axes, comparison, ends, y, _color(comparison, one), text)


def _mostly_below(comparison: Comparison) -> bool:
    """Whether there is more room for text to the left of zero than to its right."""
    ends = [end for one in comparison.contrasts if one.difference for end in (one.low, one.high)]
    return -min(ends, default=0) > max(ends, default=0)


def _interval(
    axes: Axes, comparison: Comparison, ends: tuple[float, float, float], y: float, color: str, text: str
) -> None:
    """Draw an interval. ends: mean, low, high; if low and high are NaN, only the mean is drawn."""
    mean, low, high = _scaled(comparison, list(ends))
    axes.plot([low, high], [y, y], color=color, linewidth=2.2, solid_capstyle="butt", zorder=3)
    axes.plot(mean, y, "D", color=color, markersize=6, markeredgecolor="white", zorder=4)
    axes.annotate(text, (mean, y), (0, 5), textcoords="offset points", ha="center", fontsize=9, color=color)


def _color(comparison: Comparison, one: Contrast | None) -> str:
    """Gray without a significant difference, dark for the baseline."""
    if one is None or one.difference is None or not one.significant:
        return INK if one is None else EVEN
    if comparison.direction is None:
        return OTHER
    return BETTER if one.difference.mean * comparison.direction > 0 else WORSE
