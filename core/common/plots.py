"""Plots of a run, drawn by matplotlib without pyplot, which would keep global state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from core.common.fonts import drawing, fonts_for, one_line, with_stand_ins
from core.common.statistics import mean_and_interval
from core.common.terminal import tell

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import ImageDraw
    from scipy.sparse import coo_array


CURVES, MATRIX, RELIABILITY = "learning_curves.png", "confusion_matrix.png", "reliability.png"  # artifacts
TILE, COLUMNS, GAP, LINE = 128, 4, 8, 16  # of a contact sheet, in pixels
MOST_LETTERS = 40  # of the name of a class at an axis
CELL_POINTS = 44.0  # font size by number of digits at which a count fills its cell
MOST_LABELS = 30  # with more classes, the axes of a confusion matrix have no labels
MOST_SQUARES = 1000  # with more classes, a confusion matrix is drawn for some of them only


def learning_curves(history: Sequence[Mapping[str, float]], best: int, path: Path) -> None:
    """Plot loss, accuracy and learning rate over epochs. best: the best epoch, counted from 0, which is marked."""
    figure = new_figure(12, 3.6, layout=None)  # fixed margins, because an automatic layout takes as long as drawing
    figure.subplots_adjust(left=0.045, right=0.99, bottom=0.14, top=0.91, wspace=0.17)
    epochs = range(1, len(history) + 1)
    marker = "o" if len(history) < 3 else ""
    for place, name in enumerate(("loss", "accuracy", "lr")):
        axes = figure.add_subplot(1, 3, place + 1)
        for curve in (name,) if name == "lr" else (f"train/{name}", f"val/{name}"):
            axes.plot(epochs, [entry[curve] for entry in history], label=curve, marker=marker)
        axes.axvline(best + 1, color="gray", linestyle=":", linewidth=1, label=f"best epoch {best + 1}")
        axes.set_xlabel("epoch")
        axes.locator_params(axis="x", integer=True)
        axes.ticklabel_format(axis="y", scilimits=(-2, 4))  # 0.000012 would reach into the panel to the left
        axes.set_title("learning rate" if name == "lr" else name)
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    save(figure, path)


def confusion_matrix(counts: coo_array[Any], classes: Sequence[str], path: Path, title: str) -> None:
    """Plot a confusion matrix [C, C], rows are true classes, colored by fraction of the true class.

    With more than MOST_SQUARES classes, it is that of the MOST_LABELS classes with the most errors.
    """
    total = counts.sum(axis=1)
    if len(classes) > MOST_SQUARES:
        worst = np.sort(np.argsort(counts.diagonal() - total, kind="stable")[:MOST_LABELS])
        counts, total = counts.tocsr()[worst][:, worst], total[worst]
        title = f"{title}; the {MOST_LABELS} of {len(classes):,} classes with the most errors"
        classes = [classes[place] for place in worst]
    table, n = counts.toarray(), len(classes)
    side = min(3 + 0.45 * n, 16)
    share = table / total[:, None].clip(min=1)
    with drawing(classes if n <= MOST_LABELS else ()) as text:
        figure = new_figure(side + 1, side)
        axes = figure.add_subplot()
        picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(picture, ax=axes, label="fraction of the true class", fraction=0.046)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(title)
        if n <= MOST_LABELS:
            names = [text(shortened(name)) for name in classes]
            axes.set_xticks(range(n), names, rotation=45, ha="right")
            axes.set_yticks(range(n), names)
            size = min(12.0, CELL_POINTS / len(str(table.max(initial=0))))
            for row, column in np.argwhere(table):
                color = "white" if share[row, column] > 0.5 else "black"
                count = str(table[row, column])
                axes.text(column, row, count, ha="center", va="center", color=color, fontsize=size, in_layout=False)
        save(figure, path)


def shortened(name: str) -> str:
    """Returns a name of at most MOST_LETTERS letters; the end of a longer one is cut off, so that the plot has room."""
    return name if len(name) <= MOST_LETTERS else f"{name[: MOST_LETTERS - 3]}..."


@contextmanager
def optional(what: str) -> Iterator[None]:
    """Context manager: what cannot be drawn or written is left out with one line, so that it does not fail a run that
    is trained. Errors of the file system, such as a full disk, are raised."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise
        reason = str(error).partition("\n")[0]
        tell(f"{what} was left out, because it could not be made: {type(error).__name__}: {reason}")


def contact_sheet(pixels: np.ndarray, titles: Sequence[str], path: Path) -> None:
    """Save images uint8 [N, H, W, C] as a grid with four columns and a title below each image.

    It is drawn by Pillow, which takes a tenth of the time of matplotlib.
    """
    from PIL import Image, ImageDraw

    n, height, width, channels = pixels.shape
    shown = pixels[..., :3] if channels >= 3 else pixels[..., 0]
    scale = TILE / max(height, width)
    scale = max(1, int(scale)) if scale >= 1 else scale  # images are enlarged by integer factors only
    wide, tall = max(1, round(width * scale)), max(1, round(height * scale))
    across, down, write = max(wide, TILE) + GAP, tall + LINE + GAP, _writer(titles)
    sheet = Image.new("RGB", (GAP + min(n, COLUMNS) * across, GAP + -(-n // COLUMNS) * down), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (image, title) in enumerate(zip(shown, titles, strict=True)):
        left, top = GAP + place % COLUMNS * across, GAP + place // COLUMNS * down
        filter_ = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
        sheet.paste(Image.fromarray(image).resize((wide, tall), filter_).convert("RGB"), (left, top))
        write(pen, (left, top + tall + 1), across - GAP, title)
    sheet.save(path)


def _writer(titles: Sequence[str]) -> Callable[[ImageDraw.ImageDraw, tuple[int, int], int, str], None]:
    """A function that writes a title at a position, cut to a width, each letter in a font that has it."""
    from PIL import ImageFont

    latin = ImageFont.load_default(size=11)
    found, missing = ([], frozenset[str]()) if "".join(titles).isascii() else fonts_for(titles)
    fonts = [(font.has, ImageFont.truetype(font.path, 11, index=font.face)) for font in found]

    def runs(title: str) -> list[tuple[str, Any]]:
        if title.isascii():
            return [(title, latin)]
        chosen = [next((font for has, font in fonts if letter in has), fonts[0][1]) for letter in title]
        pairs = groupby(zip(title, chosen, strict=True), key=lambda pair: pair[1])
        return [("".join(letter for letter, _ in pair), font) for font, pair in pairs]

    def write(pen: ImageDraw.ImageDraw, place: tuple[int, int], width: int, title: str) -> None:
        title = with_stand_ins(one_line(title), missing)
        while title and sum(pen.textlength(part, font=font) for part, font in runs(title)) > width:
            title = title.removesuffix("...")[:-1] + "..." if len(title) > 4 else ""
        left = float(place[0])
        for part, font in runs(title):
            pen.text((left, place[1]), part, fill="black", font=font)
            left += pen.textlength(part, font=font)

    return write


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure; sizes are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout=layout)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG. `savefig` would compute an automatic layout twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]


def band(curves: Sequence[dict[int, float]], overlap: float = 0.0) -> tuple[list[int], np.ndarray]:
    """Returns (epochs that any seed has reached, [3, epochs] with the mean and the ends of its 95 % interval).

    overlap: see `mean_and_interval`. The ends are NaN where only one seed has a value.
    """
    epochs = sorted({epoch for curve in curves for epoch in curve})
    ends = []
    for epoch in epochs:
        mean, _, half = mean_and_interval([curve[epoch] for curve in curves if epoch in curve], overlap)
        ends.append((mean, mean - half, mean + half))
    return epochs, np.array(ends).T.reshape(3, len(epochs))


def draw(
    axes: Axes, label: str, curves: Sequence[dict[int, float]], overlap: float = 0.0, fraction: bool = False
) -> None:
    """Draw the mean of the curves as a line and its 95 % interval as a band. Without curves, nothing is drawn.

    fraction: values are fractions of 1, which are shown in percent; the band is cut off at 0 and 100 %.
    """
    if not curves:
        return
    epochs, (mean, low, high) = band(curves, overlap)
    if fraction:  # an interval of few seeds would reach far below 0 and above 100 %, and flatten the curves
        from matplotlib.ticker import PercentFormatter

        low, high = low.clip(min=0), high.clip(max=1)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    (line,) = axes.plot(epochs, mean, label=f"{label} (n = {len(curves)})", marker="o" if len(epochs) < 3 else "")
    axes.fill_between(epochs, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
