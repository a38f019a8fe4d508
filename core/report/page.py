"""A report as one self-contained HTML page."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.common import html
from core.common.plots import CURVES, MATRIX, RELIABILITY
from core.common.statistics import wilson
from core.common.text import public
from core.metrics.classification import by_class
from core.metrics.confusion import Margins
from core.record.run import EXPORT, RecordedRun, last
from core.report.analysis import Findings, Mistake
from core.report.cost import cost
from core.tracking import cursor
from core.tracking.api import tracking_uri

if TYPE_CHECKING:
    from scipy.sparse import coo_array

LOCAL = "http://127.0.0.1:5000"  # of labbook ui
MOST_ROWS = 30  # with more classes, the table is collapsed
MOST_CLASSES = 1000  # in a table: per_class.csv and record.json have all of them
CONFUSED = 8  # confused pairs of classes that are listed


def page(run: RecordedRun, found: Findings, hard: Sequence[tuple[np.ndarray, str]] = ()) -> str:
    """Returns the HTML of the page, from the run's record, the pictures in its folder and the findings. hard: (pixels,
    caption) of the hardest images over seeds."""
    opening, record, matrix = run.opening, run.record, run.confusion
    assert matrix is not None  # reports are only written for tested runs
    classes, table = matrix
    question, _, description = opening.get("description", "").partition("\n")
    return html.render(
        "report/page.html.jinja",
        title=f"{record['experiment']}: {opening['name']}",
        question=question,
        description=description.strip(),
        run=run.id,
        started=_started(run),
        record=_record(run),
        mlflow=_mlflow(run),
        local=not tracking_uri().startswith("http"),
        headline=_headline(run),
        declaration=run.params.items(),
        curves=_picture(run, CURVES),
        confused=_confused(classes, table),
        matrix=_picture(run, MATRIX),
        classes=_classes(classes, table),
        most_rows=MOST_ROWS,
        all_classes=len(classes),
        mistakes_text=_mistakes_text(found),
        mistakes=[_mistake(one) for one in found.mistakes],
        hard=[([_uri(pixels)], caption) for pixels, caption in hard],
        slices=_slices(found),
        calibration=_calibration(found),
        reliability=_picture(run, RELIABILITY),
        duplicates_text=_duplicates_text(found),
        duplicates=_duplicates(found),
        data=_data(run),
        counts=_counts(run, table),
        exports=_exports(run),
        cost=cost(run).items(),
    )


def _started(run: RecordedRun) -> str:
    return f"{datetime.fromtimestamp(run.opening['time'] / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _record(run: RecordedRun) -> list[tuple[str, str]]:
    tags, data = run.tags, run.record["data"]
    changed = " with uncommitted changes, which are in code/" if tags.get("git.dirty") == "true" else ""
    return [
        ("run", run.id),
        ("command", tags.get("mlflow.source.name", "not recorded")),
        ("commit", tags["git.commit"] + changed if tags.get("git.commit") else "not recorded"),
        ("variant", tags.get("variant", "base")),
        ("data", f"{data['name']}, digest {data['digest']}"),
    ]


def _mlflow(run: RecordedRun) -> str | None:
    """The address of the run's page in MLflow; None if MLflow does not have it."""
    found, uri = cursor.load(run.folder), tracking_uri()
    if not found or not found.run_id:
        return None
    server = public(uri).rstrip("/") if uri.startswith("http") else LOCAL
    return f"{server}/#/experiments/{found.experiment_id}/runs/{found.run_id}"


def _headline(run: RecordedRun) -> list[tuple[str, str]]:
    history, n = run.history, run.record["data"]["test"]
    metrics = last(history)
    accuracy = metrics["test/accuracy"]
    low, high = wilson(np.array(round(accuracy * n)), np.array(n))
    epochs = len(history.get("train/loss", ()))  # none of an ensemble or a soup
    return [
        ("test accuracy", f"{accuracy:.2%}"),
        (f"95 % interval over {n:,} images", f"{low:.2%} to {high:.2%}"),
        ("test loss", f"{metrics['test/loss']:.4f}"),
        ("macro F1", f"{metrics['test/f1']:.4f}"),
        *([("best epoch", f"{max(history['test/accuracy'])} of {epochs}")] if epochs else []),
    ]


def _exports(run: RecordedRun) -> list[list[list[str]]]:
    """The tables of `labbook export`, each with its head as the first row; none without an export."""
    if not (run.folder / "artifacts" / EXPORT).exists():
        return []
    tables: list[list[list[str]]] = json.loads(run.artifact(EXPORT).read_text())["tables"]
    return tables


def _confused(classes: Sequence[str], table: coo_array[Any]) -> list[str]:
    """The most frequent confusions, a sentence each."""
    counts, (true, predicted) = table.sum(axis=1), table.coords
    wrong = np.flatnonzero(true != predicted)
    worst = wrong[np.argsort(-table.data[wrong], kind="stable")[:CONFUSED]]
    return [
        f"{classes[i]} taken for {classes[j]}: {n:,} of {counts[i]:,} ({n / counts[i]:.1%})"
        for i, j, n in zip(true[worst], predicted[worst], table.data[worst], strict=True)
    ]


def _classes(classes: Sequence[str], table: coo_array[Any]) -> list[tuple[str, ...]]:
    """Class, test images, precision, F1, recall and its interval; the lowest recall first, of at most MOST_CLASSES."""
    counts = table.sum(axis=1)
    low, high = wilson(table.diagonal(), counts)
    each = by_class(Margins(*map(torch.from_numpy, (table.diagonal(), table.sum(axis=0), counts)))).numpy()
    return [
        (
            classes[i],
            f"{counts[i]:,}",
            f"{each[i, 0]:.2%}",
            f"{each[i, 2]:.4f}",
            f"{each[i, 1]:.2%}",
            f"{low[i]:.2%} to {high[i]:.2%}",
        )
        for i in np.argsort(each[:, 1], kind="stable")[:MOST_CLASSES]
    ]


def _mistakes_text(found: Findings) -> str:
    n, total = len(found.test.places), found.test.total
    sample = "" if n == total else f", a random sample of {total:,} because of the time limit"
    maps = any(one.map is not None for one in found.mistakes)
    return f"Of {n:,} test images{sample}: {found.wrong:,} are misclassified. {_MAPS if maps else ''}"


_MAPS = "Next to each image: a class activation map; red marks the regions that contribute most to the prediction."


def _mistake(one: Mistake) -> tuple[list[str], str]:
    """(data URIs of the image and its map, caption)."""
    shown = [one.pixels, *([overlay(one.pixels, one.map)] if one.map is not None else [])]
    return [_uri(pixels) for pixels in shown], f"{one.true}, taken for {one.predicted} at {one.confidence:.1%}"


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend an image uint8 [H, W, C] with a map float [H, W] in 0..1, drawn blue to red. Returns uint8 [H, W, 3]."""
    from matplotlib import colormaps

    gray = pixels.mean(axis=2, keepdims=True)
    mixed: np.ndarray = 0.5 * gray + 127.5 * colormaps["turbo"](heat)[..., :3]
    return mixed.round().astype(np.uint8)


def _slices(found: Findings) -> list[tuple[str, ...]]:
    return [
        (one.name, f"{one.count:,}", f"{one.right / one.count:.1%}", f"{one.low:.1%} to {one.high:.1%}")
        for one in found.slices
    ]


def _calibration(found: Findings) -> str:
    before, after, t = found.before, found.after, found.temperature
    error = f"Its expected calibration error on the test split is {before.ece:.2%}"
    if t is None:
        return f"{error}. No temperature can be fitted, because all validation images are classified correctly."
    leaning = "overconfident" if t > 1.05 else "underconfident" if t < 0.95 else "well calibrated"
    return (
        f"The network is {leaning}. {error}. With a temperature of {t:.2f}, fitted on the validation split, it is "
        f"{after.ece:.2%}, and the negative log-likelihood is {after.nll:.4f} instead of {before.nll:.4f}; the "
        f"predicted classes do not change."
    )


def _duplicates_text(found: Findings) -> str:
    one = found.duplicates
    looked = f"{one.looked:,}" + ("" if one.looked == one.total else f" of {one.total:,} (time limit)")
    if not len(one.pairs):
        return f"None of {looked} test images has a near-duplicate in the training split."
    return (
        f"{len(one.pairs):,} of {looked} test images ({one.share:.2%}) have a near-duplicate in the training split,"
        " so that the test accuracy is biased. Each pair shows the test image and the training image:"
    )


def _duplicates(found: Findings) -> list[tuple[list[str], str]]:
    """(data URIs of the two images, caption) for each pair."""
    pairs = zip(found.pairs, found.duplicates.alike, strict=False)
    return [([_uri(pixels) for pixels in pair], f"correlation {alike:.3f}") for pair, alike in pairs]


def _data(run: RecordedRun) -> list[tuple[str, str]]:
    data = run.record["data"]
    height, width, channels = data["image_shape"]
    return [
        ("data", data["name"]),
        ("source", data["source"]),
        ("images", f"{data['train']:,} train, {data['val']:,} val, {data['test']:,} test"),
        ("size", f"{width} x {height} pixels, {channels} channels"),
        (
            "mean, standard deviation",
            _normalization(data["mean"], data["std"]),
        ),
        ("digest", data["digest"]),
    ]


def _normalization(mean: list[float], std: list[float]) -> str:
    if mean:
        return f"{_numbers(mean)} | {_numbers(std)}"
    return "of each channel of each image" if std else "of each image"


def _counts(run: RecordedRun, table: coo_array[Any]) -> list[tuple[str, str, str]]:
    data, tested = run.record["data"], table.sum(axis=1).tolist()
    columns = zip(data["classes"], data["class_counts"], tested, strict=True)
    return [(name, f"{train:,}", f"{test:,}") for name, train, test in islice(columns, MOST_CLASSES)]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _picture(run: RecordedRun, name: str) -> str | None:
    path = run.folder / "artifacts" / name
    return html.data_uri(path.read_bytes()) if path.exists() else None


def _uri(pixels: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).save(stream, "PNG")
    return html.data_uri(stream.getvalue())
