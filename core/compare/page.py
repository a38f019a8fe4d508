"""A comparison as one self-contained HTML page: table, sentences, curves with bands over seeds, confusion matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from core.common import html, paths
from core.common.fonts import drawing
from core.common.plots import draw, shortened
from core.compare.comparison import Comparison
from core.compare.forest_plot import forest
from core.compare.groups import Group
from core.compare.table import foot, headings, in_percent, sentences, table
from core.record.run import RecordedRun

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

MOST = 12  # settings drawn, the best ones: more curves cannot be distinguished
MOST_CLASSES = 100  # matrices with more classes are not drawn, because their cells would be too small


def page(comparison: Comparison) -> str:
    """Returns the HTML of the page, which needs no other files."""
    groups = comparison.groups[:MOST]
    runs = [[RecordedRun(paths.runs() / row.id) for row in group.rows] for group in groups]
    return html.render(
        "compare/page.html.jinja",
        title=f"{comparison.metric} of {len(comparison.groups)} settings",
        forest=html.svg(forest(comparison)),
        headings=headings(comparison),
        rows=table(comparison),
        sentences=[*sentences(comparison), foot(comparison), *comparison.notes],
        curves=_curves(comparison, groups, runs),
        matrices=_matrices(groups, runs),
        settings=len(comparison.groups),
        most=MOST,
    )


def _curves(comparison: Comparison, groups: Sequence[Group], runs: Sequence[Sequence[RecordedRun]]) -> Markup:
    histories = [[run.history for run in members] for members in runs]
    short = comparison.metric.rpartition("/")[2]
    with drawing([short, *(group.label for group in groups)]) as text:
        figure = _figure(12, 4)
        for place, name in enumerate(dict.fromkeys((f"val/{short}", "train/loss"))):
            axes = figure.add_subplot(1, 2, place + 1)
            for group, members in zip(groups, histories, strict=True):
                found = [history[name] for history in members if name in history]
                draw(axes, text(group.label), found, fraction=in_percent(name))
            axes.set(xlabel="epoch", title=text(name))
            axes.grid(alpha=0.3)
            if axes.lines:  # imported runs may have neither metric
                axes.legend(fontsize=8)
        return html.svg(figure)


def _matrices(groups: Sequence[Group], runs: Sequence[Sequence[RecordedRun]]) -> Markup | None:
    found = [(group.label, _shares(members)) for group, members in zip(groups, runs, strict=True)]
    drawn = [(label, shares) for label, shares in found if shares]
    if not drawn:
        return None
    names = {name for _, (classes, _) in drawn for name in classes}
    with drawing([*names, *(label for label, _ in drawn)]) as text:
        return html.svg(_drawn(drawn, text))


def _drawn(drawn: Sequence[tuple[str, tuple[list[str], np.ndarray]]], text: Callable[[str], str]) -> Figure:
    across = min(3, len(drawn))
    down = -(-len(drawn) // across)
    figure = _figure(4.6 * across, 4.2 * down)
    for place, (label, (classes, share)) in enumerate(drawn):
        axes = figure.add_subplot(down, across, place + 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(text(label), fontsize=9)
        if len(classes) <= 20:
            names = [text(shortened(name)) for name in classes]
            axes.set_xticks(range(len(classes)), names, rotation=45, ha="right", fontsize=7)
            axes.set_yticks(range(len(classes)), names, fontsize=7)
            for row, column in np.argwhere(share >= 0.005):
                color = "white" if share[row, column] > 0.5 else "black"
                percent = f"{100 * share[row, column]:.0f}"
                axes.text(column, row, percent, ha="center", va="center", color=color, fontsize=6)
    return figure


def _shares(runs: Sequence[RecordedRun]) -> tuple[list[str], np.ndarray] | None:
    """(classes, mean confusion matrix [C, C] normalized over true classes); None if no run has one, or with more than
    MOST_CLASSES classes."""
    found = [matrix for run in runs if (matrix := run.confusion)]
    classes = found[-1][0] if found else []
    if not found or len(classes) > MOST_CLASSES:
        return None
    tables = [counts.toarray() for _, counts in found]
    return classes, np.mean([counts / counts.sum(axis=1, keepdims=True).clip(min=1) for counts in tables], axis=0)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
