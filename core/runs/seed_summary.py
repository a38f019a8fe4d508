"""Summary of several seeds or folds in their parent run: metrics over them, curves with confidence bands, failures."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.common import plots
from core.common.fonts import drawing, one_line
from core.common.plots import band, contact_sheet, draw, optional
from core.common.statistics import mean_and_interval
from core.inference.answers import read
from core.inference.hardest import hardest
from core.inference.paired import pictures
from core.loading.folds import Folds
from core.metrics.names import is_fraction
from core.record.journal import Journal, log_rows
from core.runs.trained import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HARDEST = "hardest_images"
MOST_HARD = 24  # hardest images that are shown
RED = "#a40e26"
MOST_NAMED = 8  # maximum number of failed runs named in the figure
Curves = Mapping[str, dict[int, float]]  # metric -> {epoch: value}


def log_summary(
    journal: Journal,
    title: str,
    what: str,
    count: int,
    runs: Sequence[Run],
    failed: Mapping[int, str],
    stopped: Mapping[int, Run],
    folds: Folds | None = None,
) -> None:
    """Write metrics, tags and figure of the parent run.

    what: seed or fold.  count: planned number of them.  runs: finished runs.  failed: number -> error.  stopped:
    number -> its failed run.  folds: those that were trained, whose training sets overlap.

    Curves are written once all runs have finished: until then a run can be resumed, and the first entry for a
    (metric, step) is final. While n runs are missing, final metrics have the step -n, so that metrics over more runs
    come later.
    """
    last, curves, overlap = len(runs) - count, dict[int, dict[str, float]](), folds.overlap if folds else 0.0
    if not last:
        curves = by_epoch([run.history for run in runs], overlap)
        last = max(curves, default=0)
    counts = {f"{what}s_finished": float(len(runs)), f"{what}s_failed": float(len(failed))}
    finals = [run.kept_metrics if folds else run.metrics for run in runs]
    # over all runs, including those that stopped early
    curves[last] = curves.get(last, {}) | summarize(finals, overlap) | counts
    for epoch, values in sorted(curves.items()):
        journal.metrics(epoch, values)
    cleared = {name: "" for name in Run(journal.folder).tags if name.startswith(f"failed_{what}_")}
    errors = cleared | {f"failed_{what}_{number}": error[:1000] for number, error in failed.items()}
    journal.write("tags", values={f"failed_{what}s": ", ".join(map(str, failed)), **errors})
    if what == "seed" and len(runs) == count > 1 and not runs[0].multi_label:
        _keep_hardest(journal, runs)
    histories = {number: run.history for number, run in stopped.items()}
    picture = f"{what}s.png"
    with optional(picture):
        named = {f"{what} {number}": error for number, error in failed.items()}
        drawn = {f"{what} {number}": history for number, history in histories.items()}
        draw_runs(title, what, [run.history for run in runs], drawn, named, journal.artifact(picture), overlap)
        journal.log_artifact(picture)


def _keep_hardest(journal: Journal, runs: Sequence[Run]) -> None:
    """Write the test images that most of the runs get wrong, with what they say of them, as a table and as pictures."""
    with optional(HARDEST):
        answers = [read(run, "test") for run in runs]
        found, picture = hardest(answers, MOST_HARD), f"{HARDEST}.png"
        log_rows(journal, f"{HARDEST}.csv", ["id", "class", f"right of {len(runs)}", "predicted"], found.rows())
        if len(found.places):
            images = runs[0].own_splits().test
            contact_sheet(pictures(images, answers[0], found.places), found.captions(), journal.artifact(picture))
            journal.log_artifact(picture)


def summarize(finals: Sequence[Mapping[str, float]], overlap: float = 0.0) -> dict[str, float]:
    """Mean of each val/ and test/ metric over runs, under its own name, with name_std, name_ci95 (half the width of the
    95 % confidence interval), name_low and name_high (its bounds). overlap: see `mean_and_interval`."""
    result: dict[str, float] = {}
    for name in sorted({name for metrics in finals for name in metrics if name.startswith(("val/", "test/"))}):
        mean, std, half = mean_and_interval([metrics[name] for metrics in finals if name in metrics], overlap)
        result |= {name: mean}
        if len(finals) > 1:
            result |= {
                f"{name}_std": std,
                f"{name}_ci95": half,
                f"{name}_low": mean - half,
                f"{name}_high": mean + half,
            }
    return result


def by_epoch(histories: Sequence[Curves], overlap: float = 0.0) -> dict[int, dict[str, float]]:
    """Curves over runs: epoch -> {metric: mean over the runs that reached it; metric_low, metric_high: bounds of the
    95 % confidence interval}."""
    found: dict[int, dict[str, float]] = {}
    for name in sorted({name for history in histories for name in history if name.startswith(("train/", "val/"))}):
        epochs, ends = band([history[name] for history in histories if name in history], overlap)
        for epoch, *values in zip(epochs, *ends.tolist(), strict=True):
            named = zip((name, f"{name}_low", f"{name}_high"), values, strict=True)
            found.setdefault(epoch, {}).update({key: value for key, value in named if not math.isnan(value)})
    return found


def draw_runs(
    title: str,
    what: str,
    histories: Sequence[Curves],
    stopped: Mapping[str, Curves],
    failed: Mapping[str, str],
    path: Path,
    overlap: float = 0.0,
) -> None:
    """Plot loss and accuracy over epochs with confidence bands; curves of failed runs are dotted, their errors are
    listed below. what: seed or fold."""
    from matplotlib.figure import Figure

    named = [f"{run} failed: {error.partition(chr(10))[0]}" for run, error in list(failed.items())[:MOST_NAMED]]
    named += [f"{len(failed) - MOST_NAMED} more failed"] if len(failed) > MOST_NAMED else []
    with drawing([title, *named]) as text:
        short = [textwrap.shorten(one_line(line), 240) for line in named]
        words = "\n".join(text(line) for full in short for line in textwrap.wrap(full, 120, subsequent_indent="    "))
        lines = words.count("\n") + bool(words)
        figure = Figure(figsize=(9, 4 + 0.2 * lines), dpi=110, layout="constrained")
        heading = f"{text(title)}: {len(histories)} of {len(histories) + len(failed)} {what}s"
        figure.suptitle(heading, fontsize=11, x=0.01, ha="left")
        for place, name in enumerate(("loss", "accuracy")):
            _draw_runs(figure.add_subplot(1, 2, place + 1), name, histories, stopped, overlap)
        if words:
            figure.supxlabel(words, fontsize=9, color=RED, x=0.01, ha="left")
        plots.save(figure, path)


def _draw_runs(
    axes: Axes, name: str, histories: Sequence[Curves], stopped: Mapping[str, Curves], overlap: float
) -> None:
    for curve in (f"train/{name}", f"val/{name}"):
        found = [history[curve] for history in histories if curve in history]
        draw(axes, curve, found, overlap, fraction=is_fraction(name))
    for run, history in stopped.items():
        points = history.get(f"val/{name}", {})
        if points:
            axes.plot([*points], [*points.values()], "x:", color=RED, label=f"val/{name}, failed {run}")
    axes.set(xlabel="epoch", title=name)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(fontsize=8)
