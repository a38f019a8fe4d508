"""Plots of a run, drawn by matplotlib without pyplot, which would keep global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from core.common.statistics import mean_and_interval

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


CURVES, MATRIX, RELIABILITY = "learning_curves.png", "confusion_matrix.png", "reliability.png"  # artifacts
TILE, COLUMNS, GAP, LINE = 128, 4, 8, 16  # of a contact sheet, in pixels
MOST_LABELS = 30  # with more classes, the axes of a confusion matrix have no labels


def learning_curves(history: Sequence[Mapping[str, float]], best: int, path: Path) -> None:
    """Plot loss, accuracy and learning rate over epochs. best: the best epoch, counted from 0, which is marked."""
    figure = _figure(12, 3.6, layout=None)  # fixed margins, because an automatic layout takes as long as drawing
    figure.subplots_adjust(left=0.045, right=0.99, bottom=0.14, top=0.91, wspace=0.17)
    epochs = range(1, len(history) + 1)
    marker = "o" if len(history) < 3 else ""
    for place, name in enumerate(("loss", "accuracy", "lr")):
        axes = figure.add_subplot(1, 3, place + 1)
        for curve in (name,) if name == "lr" else (f"train/{name}", f"val/{name}"):
            axes.plot(epochs, [entry[curve] for entry in history], label=curve, marker=marker)
        axes.axvline(best + 1, color="gray", linestyle=":", linewidth=1, label=f"best epoch {best + 1}")
        axes.set_xlabel("epoch")
        axes.set_title("learning rate" if name == "lr" else name)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    figure.savefig(path)


def confusion_matrix(table: np.ndarray, classes: Sequence[str], path: Path, title: str) -> None:
    """Plot a confusion matrix of counts [C, C], rows are true classes, colored by fraction of the true class."""
    n = len(classes)
    side = min(3 + 0.45 * n, 16)
    figure = _figure(side + 1, side)
    axes = figure.add_subplot()
    share = table / table.sum(axis=1, keepdims=True).clip(min=1)
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="fraction of the true class", fraction=0.046)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(title)
    if n <= MOST_LABELS:
        axes.set_xticks(range(n), classes, rotation=45, ha="right")
        axes.set_yticks(range(n), classes)
        for row in range(n):
            for column in range(n):
                if table[row, column]:
                    color = "white" if share[row, column] > 0.5 else "black"
                    text = str(table[row, column])
                    axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    figure.savefig(path)


def contact_sheet(pixels: np.ndarray, titles: Sequence[str], path: Path) -> None:
    """Save images uint8 [N, H, W, C] as a grid with four columns and a title below each image.

    It is drawn by Pillow, which takes a tenth of the time of matplotlib.
    """
    from PIL import Image, ImageDraw, ImageFont

    n, height, width, channels = pixels.shape
    shown = pixels[..., :3] if channels >= 3 else pixels[..., 0]
    scale = TILE / max(height, width)
    scale = max(1, int(scale)) if scale >= 1 else scale  # images are enlarged by integer factors only
    wide, tall = max(1, round(width * scale)), max(1, round(height * scale))
    across, down, font = max(wide, TILE) + GAP, tall + LINE + GAP, ImageFont.load_default(size=11)
    sheet = Image.new("RGB", (GAP + min(n, COLUMNS) * across, GAP + -(-n // COLUMNS) * down), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (image, title) in enumerate(zip(shown, titles, strict=True)):
        left, top = GAP + place % COLUMNS * across, GAP + place // COLUMNS * down
        filter_ = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
        sheet.paste(Image.fromarray(image).resize((wide, tall), filter_).convert("RGB"), (left, top))
        while title and pen.textlength(title, font=font) > across - GAP:
            title = title.removesuffix("...")[:-1] + "..." if len(title) > 4 else ""
        pen.text((left, top + tall + 1), title, fill="black", font=font)
    sheet.save(path)


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout=layout)


def band(curves: Sequence[dict[int, float]]) -> tuple[list[int], np.ndarray]:
    """Returns (epochs that any seed has reached, [3, epochs] with the mean and the ends of its 95 % interval).

    The ends are NaN where only one seed has a value.
    """
    epochs = sorted({epoch for curve in curves for epoch in curve})
    ends = []
    for epoch in epochs:
        mean, _, half = mean_and_interval([curve[epoch] for curve in curves if epoch in curve])
        ends.append((mean, mean - half, mean + half))
    return epochs, np.array(ends).T.reshape(3, len(epochs))


def draw(axes: Axes, label: str, curves: Sequence[dict[int, float]]) -> None:
    """Draw the mean of the curves as a line and its 95 % interval as a band. Without curves, nothing is drawn."""
    if not curves:
        return
    epochs, (mean, low, high) = band(curves)
    (line,) = axes.plot(epochs, mean, label=f"{label} (n = {len(curves)})", marker="o" if len(epochs) < 3 else "")
    axes.fill_between(epochs, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
