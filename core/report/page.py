"""A report as one self-contained HTML page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from core.common import html
from core.common.plots import CURVES, MATRIX, RELIABILITY
from core.common.statistics import wilson
from core.metrics.classification import by_class
from core.record.run import RecordedRun, last
from core.report.analysis import Findings, Mistake
from core.report.cost import cost

MOST_ROWS = 30  # classes beyond this are folded away
CONFUSED = 8  # pairs of classes named
_STYLE = """
img { max-width: 100%; height: auto } .tiles { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0 }
figure { margin: 0; width: 13rem } figure img { width: 6.4rem; image-rendering: pixelated }
figcaption { font-size: .85rem; line-height: 1.35 } .alarm { background: #fdecea; border-left: 4px solid #c0392b }
.fine { background: #eef7ee; border-left: 4px solid #2e7d32 } .alarm, .fine { padding: .5rem 1rem }
.figures { display: flex; flex-wrap: wrap; gap: .6rem 2rem; padding: 0; list-style: none }
.figures b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums } .figures li { min-width: 8rem }
.curves img { min-width: 44rem }
details { margin: .5rem 0 } summary { cursor: pointer } .narrow { max-width: 34rem } pre { white-space: pre-wrap }
"""


def page(run: RecordedRun, found: Findings) -> str:
    """The whole page, from the run's record, the pictures in its folder and what was found."""
    opening, record, matrix = run.opening, run.record, run.confusion
    assert matrix is not None  # only tested runs come here
    classes, table = matrix
    question, _, more = opening.get("description", "").partition("\n")
    title = f"{record['experiment']}: {opening['name']}"
    return html.document(
        title,
        [
            f"<h1>{html.text(question or title)}</h1>",
            f"<p>{html.text(title)} &middot; <code>{html.text(run.id)}</code></p>",
            _headline(run),
            _folded(
                "What the experiment says of itself", f"<pre>{html.text(more.strip())}</pre>" if more.strip() else ""
            ),
            _folded("The declaration", html.table(("field", "value"), run.params.items())),
            "<h2>How it went</h2>",
            _picture(run, CURVES, "loss, accuracy and learning rate over epochs", "wide curves"),
            "<h2>What it gets wrong</h2>",
            *_confusion(run, classes, table),
            "<h2>Its most confident mistakes</h2>",
            *_mistakes(found),
            "<h2>Where it is worst</h2>",
            *_slices(found),
            "<h2>Whether it knows what it knows</h2>",
            *_calibration(run, found),
            "<h2>The data</h2>",
            *_duplicates(found),
            *_data(run, table),
            "<h2>What it cost</h2>",
            html.table(("", ""), cost(run).items()),
        ],
        _STYLE,
    )


def _headline(run: RecordedRun) -> str:
    history, n = run.history, run.record["data"]["test"]
    metrics = last(history)
    accuracy = metrics["test/accuracy"]
    low, high = wilson(np.array(round(accuracy * n)), np.array(n))
    shown = {
        "test accuracy": f"{accuracy:.2%}",
        f"95 % interval over {n:,} images": f"{low:.2%} to {high:.2%}",
        "test loss": f"{metrics['test/loss']:.4f}",
        "macro F1": f"{metrics['test/f1']:.4f}",
        "best epoch": f"{max(history['test/accuracy'])} of {len(history['train/loss'])}",
    }
    cells = "".join(f"<li>{html.text(name)}<b>{html.text(value)}</b></li>" for name, value in shown.items())
    return f'<ul class="figures">{cells}</ul>'


def _confusion(run: RecordedRun, classes: Sequence[str], table: np.ndarray) -> Iterator[str]:
    counts, right = table.sum(axis=1), table.diagonal()
    off = table * (1 - np.eye(len(table), dtype=table.dtype))
    worst = np.argsort(-off, axis=None, kind="stable")[:CONFUSED]
    pairs = [(i, j) for i, j in zip(*np.unravel_index(worst, table.shape), strict=True) if off[i, j]]
    yield html.items(
        f"{classes[i]} taken for {classes[j]}: {off[i, j]:,} of {counts[i]:,} ({off[i, j] / counts[i]:.1%})"
        for i, j in pairs
    )
    yield _picture(run, MATRIX, "confusion matrix", "narrow")
    low, high = wilson(right, counts)
    each = by_class(torch.from_numpy(table)).numpy()
    rows = [
        (
            classes[i],
            f"{counts[i]:,}",
            f"{each[i, 0]:.2%}",
            f"{each[i, 2]:.4f}",
            f"{each[i, 1]:.2%}",
            f"{low[i]:.2%} to {high[i]:.2%}",
        )
        for i in np.argsort(each[:, 1], kind="stable")
    ]
    shown = html.table(
        ("class, worst first", "test images", "precision", "F1", "recall", "95 % interval (Wilson)"), rows
    )
    yield shown if len(classes) <= MOST_ROWS else _folded(f"All {len(classes):,} classes", shown)


def _mistakes(found: Findings) -> Iterator[str]:
    yield f"<p>{html.text(_of(found))}: {found.wrong:,} mistakes. {_MAPS if _has_maps(found) else ''}</p>"
    yield f'<div class="tiles">{"".join(_mistake(one) for one in found.mistakes)}</div>'


_MAPS = "Beside each image, what speaks for the answer that was given (a class-activation map): the redder, the more."


def _has_maps(found: Findings) -> bool:
    return any(one.map is not None for one in found.mistakes)


def _of(found: Findings) -> str:
    n, total = len(found.test.places), found.test.total
    return f"Of {n:,} test images" + ("" if n == total else f", drawn by lot from {total:,} for lack of time")


def _mistake(one: Mistake) -> str:
    told = f"{one.true}, taken for {one.said} at {one.confidence:.1%}"
    shown = [one.pixels, *([overlay(one.pixels, one.map)] if one.map is not None else [])]
    return _tile(shown, told)


def _tile(shown: Iterable[np.ndarray], told: str) -> str:
    images = "".join(html.png(_png(pixels), told) for pixels in shown)
    return f"<figure>{images}<figcaption>{html.text(told)}</figcaption></figure>"


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: an image uint8 [H, W, C] under a map float [H, W] in 0..1, blue to red."""
    from matplotlib import colormaps

    gray = pixels.mean(axis=2, keepdims=True)
    return (0.5 * gray + 127.5 * colormaps["turbo"](heat)[..., :3]).round().astype(np.uint8)


def _slices(found: Findings) -> Iterator[str]:
    if not found.slices:
        yield "<p>No class is worse in the dark, or anywhere, than the whole; or there are too few images to tell.</p>"
        return
    rows = [
        (one.name, f"{one.count:,}", f"{one.right / one.count:.1%}", f"{one.low:.1%} to {one.high:.1%}")
        for one in found.slices
    ]
    yield "<p>Images of one class in thirds by brightness, by contrast, and by size where they differ in size.</p>"
    yield html.table(("images", "number", "accuracy", "95 % interval (Wilson)"), rows)


def _calibration(run: RecordedRun, found: Findings) -> Iterator[str]:
    before, after, t = found.before, found.after, found.temperature
    error = f"Its expected calibration error on test is {before.ece:.2%}"
    if t is None:
        yield f"<p>{error}. No temperature can be fitted: it makes no mistake on the validation images.</p>"
    else:
        leaning = "too sure of itself" if t > 1.05 else "not as sure as it might be" if t < 0.95 else "rightly sure"
        yield (
            f"<p>The network is {leaning}. {error}. Dividing its logits by {t:.2f}, the temperature that fits the "
            f"validation images best, makes that {after.ece:.2%}, and the negative log-likelihood {after.nll:.4f} "
            f"instead of {before.nll:.4f}; the answers stay the same.</p>"
        )
    yield _picture(run, RELIABILITY, "reliability diagram", "narrow")


def _duplicates(found: Findings) -> Iterator[str]:
    one = found.duplicates
    looked = f"{one.looked:,}" + ("" if one.looked == one.total else f" of {one.total:,}, for lack of time,")
    if not len(one.pairs):
        yield f'<p class="fine">None of {looked} test images has a near-duplicate in train.</p>'
        return
    yield (
        f'<p class="alarm">{len(one.pairs):,} of {looked} test images ({one.share:.2%}) have a near-duplicate in train'
        ": what is measured on them is memory. Each test image, and the one in train:</p>"
    )
    tiles = [_tile(pair, f"correlation {alike:.3f}") for pair, alike in zip(found.pairs, one.alike, strict=False)]
    yield f'<div class="tiles">{"".join(tiles)}</div>'


def _data(run: RecordedRun, table: np.ndarray) -> Iterator[str]:
    data = run.record["data"]
    height, width, channels = data["image_shape"]
    yield html.table(
        ("", ""),
        [
            ("data", data["name"]),
            ("source", data["source"]),
            ("images", f"{data['train']:,} train, {data['val']:,} val, {data['test']:,} test"),
            ("size", f"{width} x {height} pixels, {channels} channels"),
            (
                "mean, deviation",
                " | ".join(_numbers(data[name]) for name in ("mean", "std") if data[name]) or "of each image",
            ),
            ("digest", data["digest"]),
        ],
    )
    tested = table.sum(axis=1).tolist()
    columns = zip(data["classes"], data["class_counts"], tested, strict=True)
    counts = html.table(("class", "train", "test"), [(name, f"{a:,}", f"{b:,}") for name, a, b in columns])
    yield _folded(f"{len(data['classes']):,} classes", counts)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _picture(run: RecordedRun, name: str, said: str, style: str = "") -> str:
    path: Path = run.folder / "artifacts" / name
    return f'<div class="{style}">{html.png(path.read_bytes(), said)}</div>' if path.exists() else ""


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{html.text(title)}</summary>{body}</details>" if body else ""


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(stream, "PNG")
    return stream.getvalue()
