"""Suspect labels by confident learning (Northcutt et al. 2021, section 3.1), with the network of a recorded run.

A label is suspect if the network predicts another class, with a confidence of at least its mean confidence in that
class over the images labeled as that class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from core.common.errors import UserError
from core.runs.trained import Run
from data.check.findings import Inspection
from data.check.survey import Content, pixels_of
from data.reading import ingest
from data.reading.decode import Conversion, with_channels
from data.reading.progress import bar, printable


@dataclass(frozen=True)
class Suspect:
    """An image with a suspect label.  row: of the tree.  said: predicted class.  confidence: its probability."""

    row: int
    label: str
    said: str
    confidence: float


@dataclass(frozen=True)
class Opinion:
    """The suspect labels according to a run.

    suspects: sorted by decreasing confidence.  classified: number of images classified.  strange: classes of the tree
    that are not classes of the run.
    """

    run: str
    suspects: tuple[Suspect, ...]
    classified: int
    strange: tuple[str, ...]


def opinion(inspection: Inspection, run: Run, device: str) -> Opinion:
    """Classify the readable images with the network of a run and find suspect labels.  device: see --device. Raises
    UserError."""
    found, places = inspection.tree, inspection.places
    classes: list[str] = run.record["data"]["classes"]
    known = {name: at for at, name in enumerate(classes)}
    labels = {row: known[places[row][1]] for row in inspection.survey.seen if places[row][1] in known}
    strange = tuple(sorted({name for _, name in places if name and name not in known}))
    if not labels:
        shown = ", ".join(map(printable, classes[:10]))
        raise UserError([f"--run {run.id}: it was trained on none of these classes; its classes are {shown}"])
    network, side, channels = _network(run, device)
    rows: list[int] = []
    outputs: list[np.ndarray] = []
    shown_bar = bar(f"classifying {len(labels):,} images with {run.id}", len(labels), "images")
    with shown_bar as advance:

        def job(batch: list[tuple[int, Content]]) -> tuple[list[int], np.ndarray]:
            pixels = [_pixels(content, found.names[row], inspection.how, side, channels) for row, content in batch]
            return [row for row, _ in batch], np.stack(pixels)

        wanted = (item for item in inspection.listing.contents() if item[0] in labels)
        for some, pixels in ingest.in_threads(job, ingest.batches(wanted)):
            rows += some
            probabilities = network.logits(pixels).double().softmax(dim=1).numpy()
            own_class = probabilities[np.arange(len(some)), [labels[row] for row in some]]
            outputs.append(np.stack([probabilities.argmax(axis=1), probabilities.max(axis=1), own_class], axis=1))
            advance(len(some))
    answers = np.concatenate(outputs)
    given = np.array([labels[row] for row in rows])
    usual = usual_confidence(given, answers[:, 2], len(classes))
    said = answers[:, 0].astype(np.int64)
    doubted = np.flatnonzero((said != given) & (answers[:, 1] >= usual[said]))
    doubted = doubted[np.argsort(-answers[doubted, 1], kind="stable")]
    suspects = [Suspect(rows[at], classes[given[at]], classes[said[at]], float(answers[at, 1])) for at in doubted]
    return Opinion(run.id, tuple(suspects), len(rows), strange)


def usual_confidence(labels: np.ndarray, confidence: np.ndarray, classes: int) -> np.ndarray:
    """Mean confidence of each class, float [C], over the images labeled as that class, given labels int64 [N] and the
    confidence in them, float [N]; 2 for a class without images, so that no label is suspect because of it."""
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=confidence, minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), 2.0)


def _network(run: Run, device: str) -> tuple[Any, int, int]:
    """(Network, pixels a side, channels). Raises UserError."""
    from core.inference.network import network_of

    height, width, channels = run.record["data"]["image_shape"]
    if height != width:
        raise UserError([f"--run {run.id} expects images of {width} x {height}; only square images are supported"])
    return network_of(run, device), height, channels


def _pixels(content: Content, name: str, how: Conversion, side: int, channels: int) -> np.ndarray:
    return with_channels(pixels_of(content, name, side, how), channels)
