"""Suspect labels, according to the networks of recorded runs.

Of a single run, a label is suspect if the network predicts another class, with a confidence of at least its mean
confidence in that class over the images labeled as that class (Northcutt et al. 2021, section 3.1, with its confident
joint alone). It was trained on some of these labels, and may repeat what it was taught.

Of the parent of folds, each image is judged by a network that was not trained on it, from the out-of-fold answers on
record; other images by the mean of the networks, none of which was. Suspect labels are those that confident learning
prunes by noise rate (section 3.2), by cleanlab.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.common.errors import UserError
from core.common.extras import library
from core.inference.answers import OUT_OF_FOLD, name_of, read
from core.inference.average import all_logits
from core.metrics.answers import identity
from core.record.run import WEIGHTS
from core.runs.members import members
from core.runs.trained import Run
from data.check.findings import Inspection
from data.check.survey import Content, pixels_of
from data.folder import frame_for
from data.reading import ingest
from data.reading.decode import Conversion, with_channels
from data.reading.frame import Frame, Reduced, encoded
from data.reading.progress import bar, printable
from data.reading.reduced import read_reduced


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

    suspects: sorted, the most suspect first.  classified: number of images classified.  strange: classes of the tree
    that are not classes of the run.  caveat: what it may have missed.
    """

    run: str
    suspects: tuple[Suspect, ...]
    classified: int
    strange: tuple[str, ...]
    caveat: str


@dataclass(frozen=True)
class Judge:
    """Who judges labels.  run: that was named.  runs: its networks.  known: id of an image -> row of `answers`, float
    [N, C], probabilities of networks that were not trained on it; empty unless the run is the parent of folds."""

    run: Run
    runs: Sequence[Run]
    known: dict[str, int]
    answers: np.ndarray

    @classmethod
    def named(cls, name: str) -> Judge:
        """The judge of --run. Raises UserError if it cannot judge."""
        runs = members([name])
        run = Run.load(name)
        for each in runs:
            if not (each.folder / "artifacts" / WEIGHTS).exists():
                raise UserError([f"--run {each.id} has no saved weights; name a finished run"])
        runs[0].refuse_tasks("--run does")
        if runs[0].multi_label:
            raise UserError([f"--run {run.id} is multi-label; only labels of one class for each image are checked"])
        if not (run.folder / "artifacts" / name_of(OUT_OF_FOLD)).exists():
            return cls(run, runs, {}, np.empty((0, 0)))
        library("cleanlab", "labels", "checking labels with a parent of folds")
        answers = read(run, OUT_OF_FOLD)
        known = {name: row for row, name in enumerate(answers.ids.tolist())}
        return cls(run, runs, known, all_logits(answers).softmax(dim=1).numpy())

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        found: list[str] = self.runs[0].record["data"]["classes"]
        return found


def opinion(inspection: Inspection, judge: Judge, device: str) -> Opinion:
    """Classify the readable images and find suspect labels.  device: see --device. Raises UserError."""
    found, places, run, classes = inspection.tree, inspection.places, judge.run, judge.classes
    known = {name: at for at, name in enumerate(classes)}
    labels = {row: known[places[row][1]] for row in inspection.survey.seen if places[row][1] in known}
    strange = tuple(sorted({name for _, name in places if name and name not in known}))
    if not labels:
        shown = ", ".join(map(printable, classes[:10]))
        raise UserError([f"--run {run.id}: it was trained on none of these classes; its classes are {shown}"])
    networks = _networks(judge.runs, device)
    data, shape = judge.runs[0].experiment.data, judge.runs[0].record["data"]["image_shape"]
    frame, channels = frame_for(data, shape), shape[2]
    decoded = reduced_pixels if getattr(data, "cached", None) == "resized" else pixels_of
    rows: list[int] = []
    outputs: list[np.ndarray] = []
    remembered = 0
    shown_bar = bar(f"classifying {len(labels):,} images with {run.id}", len(labels), "images")
    with shown_bar as advance:

        def job(batch: list[tuple[int, Content]]) -> tuple[list[int], np.ndarray]:
            pixels = [decoded(content, found.names[row], frame, inspection.how) for row, content in batch]
            return [row for row, _ in batch], with_channels(np.stack(pixels), channels)

        wanted = (item for item in inspection.listing.contents() if item[0] in labels)
        for some, pixels in ingest.in_threads(job, ingest.batches(wanted)):
            rows += some
            answers, recalled = _answered(judge, networks, pixels)
            remembered += recalled
            own = [labels[row] for row in some]
            outputs.append(answers.astype(np.float32) if judge.known else outlined(answers, np.array(own)))
            advance(len(some))
    whole, given = np.concatenate(outputs), np.array([labels[row] for row in rows])
    doubted = confident_learning(whole, given) if judge.known else disagreeing(whole, given, len(classes))
    said, confidence = (whole.argmax(axis=1), whole.max(axis=1)) if judge.known else (whole[:, 0], whole[:, 1])
    suspects = [
        Suspect(rows[at], classes[given[at]], classes[int(said[at])], float(confidence[at])) for at in doubted.tolist()
    ]
    caveat = f"it misses suspect labels among the images that {run.id} was trained on"
    if judge.known:
        caveat = f"{remembered:,} images were judged by a network that was not trained on them"
        caveat += f", the others by the mean of {len(networks)}" if remembered < len(rows) else ""
    return Opinion(run.id, tuple(suspects), len(rows), strange, caveat)


def outlined(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predicted class, its probability and that of the label of each image, float [N, 3], from probabilities [N, C]."""
    own = answers[np.arange(len(answers)), labels]
    return np.stack([answers.argmax(axis=1), answers.max(axis=1), own], axis=1)


def disagreeing(outline: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The images whose label a network disagrees with, by decreasing confidence, int64 [n]. outline: see `outlined`."""
    usual = usual_confidence(labels, outline[:, 2], classes)
    said = outline[:, 0].astype(np.int64)
    doubted = np.flatnonzero((said != labels) & (outline[:, 1] >= usual[said]))
    return doubted[np.argsort(-outline[doubted, 1], kind="stable")]


def confident_learning(answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The images whose label confident learning finds wrong, the least likely label first, int64 [n], from out-of-fold
    probabilities [N, C]."""
    issues = library("cleanlab.filter", "labels", "confident learning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with few images
        found = issues.find_label_issues(labels, answers, return_indices_ranked_by="self_confidence", n_jobs=1)
    return np.asarray(found, dtype=np.int64)


def usual_confidence(labels: np.ndarray, confidence: np.ndarray, classes: int) -> np.ndarray:
    """Mean confidence of each class, float [C], over the images labeled as that class, given labels int64 [N] and the
    confidence in them, float [N]; 2 for a class without images, so that no label is suspect because of it."""
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=confidence, minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), 2.0)


def _answered(judge: Judge, networks: Sequence[Any], pixels: np.ndarray) -> tuple[np.ndarray, int]:
    """(probabilities float64 [N, C] of images, how many of them are on record)"""
    rows = np.array([judge.known.get(identity(image), -1) for image in pixels] if judge.known else [-1] * len(pixels))
    found = np.empty((len(pixels), len(judge.classes)))
    if judge.known:
        found[rows >= 0] = judge.answers[rows[rows >= 0]]
    if len(others := pixels[rows < 0]):
        each = [network.logits(others).double().softmax(dim=1).numpy() for network in networks]
        found[rows < 0] = np.mean(each, axis=0)
    return found, int((rows >= 0).sum())


def _networks(runs: Sequence[Run], device: str) -> list[Any]:
    from core.inference.network import network_of

    return [network_of(run, device) for run in runs]


def reduced_pixels(content: Content, name: str, frame: Frame, how: Conversion) -> np.ndarray:
    """As `pixels_of`, through the reduced file that a run has kept: answers on record are found by their pixels. Raises
    Unreadable."""
    return read_reduced(encoded(pixels_of(content, name, Reduced.to(frame), how)), frame)
