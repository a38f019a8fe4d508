"""A comparison as one picture: a row for each setting with its seeds, mean and interval; beside it the difference."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.compare.groups import Against, Comparison, Group
from core.compare.table import is_share, markdown, number, told_n
from core.metrics.names import sign

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".svg", ".png")
MOST = 30  # settings drawn, the best ones and the baseline
WIDTH, LETTERS = 8.0, 26  # inches, and letters of a label in one line: at 700 pixels it still reads
ROW, LINE, REST = 0.46, 0.14, 1.2  # inches: of a setting, of another line of its label, of titles and axes
INK, PALE, BAND = "#24292f", "#8c959f", "#f6f8fa"
BETTER, WORSE, EVEN = "#0072b2", "#d55e00", "#57606a"  # distinguishable by the color-blind too (Okabe and Ito 2008)
NO_BREAK = "\u00a0"


def forest(found: Comparison) -> Figure:
    """Best on top. On the left, seeds as dots, mean and 95 % interval; on the right, the difference to the baseline."""
    from matplotlib.figure import Figure

    groups = drawn(found)
    labels = [textwrap.fill(_label(group), LETTERS, break_long_words=True) for group in groups]
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
        left.get_yticklabels()[place].set_fontweight("bold" if compared and group is found.baseline else "normal")
        _seeds(left, found, group, middles[place])
        for axes in right:
            _difference(axes, found, found.judged(group), middles[place])
    better = "more" if sign(found.metric) > 0 else "less"
    unit = ", %" if is_share(found.metric) else ""
    _entitle(left, f"{found.metric}{unit}", f"bar: mean and 95 % interval; dots: seeds\n{better} is better")
    for axes in right:
        points = ", points" if is_share(found.metric) else ""
        _entitle(axes, f"difference{points}", "to the baseline (bold);\ncolored if significant")
        axes.axvline(0, color=INK, linewidth=1, zorder=1)
    return figure


def drawn(found: Comparison) -> list[Group]:
    """The best settings, and the baseline however bad."""
    best = found.groups[:MOST]
    return [*best] if found.baseline in best else [*best[:-1], found.baseline]


def save(found: Comparison, path: Path) -> None:
    """As SVG or PNG, by the name; the table of what is drawn is in the file, for `told`. Raises OSError."""
    from matplotlib import rc_context

    plain = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "labbook", "svg.fonttype": "none"}):  # the same numbers, the same small file
        forest(found).savefig(path, metadata={"Description": markdown(found), **plain})


def told(path: Path) -> str | None:
    """The table that a picture by `save` was drawn from, in Markdown; None if the file is not such a picture."""
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
    n = f"(n = {told_n(group)})".replace(" ", NO_BREAK)
    return f"{group.label} {n}"


def _scaled(found: Comparison, values: list[float]) -> list[float]:
    return [100 * value if is_share(found.metric) else value for value in values]


def _prepare(axes: Axes, middles: np.ndarray, tall: list[float]) -> None:
    """Every second row shaded, which leads the eye from the label to the difference."""
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


def _entitle(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel(below, fontsize=9, color=EVEN, loc="left")


def _seeds(axes: Axes, found: Comparison, group: Group, y: float) -> None:
    """The seeds below their mean, so that neither hides the other."""
    mean, _, half = group.summary
    color = _color(found, found.judged(group))
    values = _scaled(found, sorted(group.values.values()))
    stacked = [y + 0.08 + 0.05 * min(values[:i].count(value), 2) for i, value in enumerate(values)]
    axes.plot(values, stacked, "o", color=color, alpha=0.45, markersize=5, markeredgewidth=0)
    _interval(axes, found, (mean, mean - half, mean + half), y - 0.02, color, number(found.metric, mean))


def _difference(axes: Axes, found: Comparison, one: Against | None, y: float) -> None:
    if one is None or one.difference is None:
        said = "baseline" if one is None else "one seed: no interval"
        free, side = ("right", -6) if _mostly_below(found) else ("left", 6)
        axes.annotate(said, (0, y), (side, 0), textcoords="offset points", va="center", ha=free, fontsize=9, color=EVEN)
        return
    ends = (one.difference.mean, one.difference.low, one.difference.high)
    said = f"{'+' if one.difference.mean > 0 else ''}{number(found.metric, one.difference.mean)}"
    _interval(axes, found, ends, y, _color(found, one), said)


def _mostly_below(found: Comparison) -> bool:
    """Whether there is room for words on the left of zero rather than on its right."""
    ends = [end for one in found.against if one.difference for end in (one.difference.low, one.difference.high)]
    return -min(ends, default=0) > max(ends, default=0)


def _interval(axes: Axes, found: Comparison, ends: tuple[float, float, float], y: float, color: str, said: str) -> None:
    """ends: mean, low, high; NaN ends draw no bar."""
    mean, low, high = _scaled(found, list(ends))
    axes.plot([low, high], [y, y], color=color, linewidth=2.2, solid_capstyle="butt", zorder=3)
    axes.plot(mean, y, "D", color=color, markersize=6, markeredgecolor="white", zorder=4)
    axes.annotate(said, (mean, y), (0, 5), textcoords="offset points", ha="center", fontsize=9, color=color)


def _color(found: Comparison, one: Against | None) -> str:
    """Gray where no difference is shown, also of the baseline."""
    if one is None or one.difference is None or not one.shown:
        return INK if one is None else EVEN
    return BETTER if one.difference.mean * sign(found.metric) > 0 else WORSE
