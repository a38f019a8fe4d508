"""labbook evaluate --corrupt: the accuracy of a network on corrupted images (Hendrycks and Dietterich 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core import randomness
from core.augment import frost
from core.augment.corruptions import KINDS, Corruption, lacking
from core.common.errors import DataError, UserError
from core.common.files import make_folder, sha256_of
from core.common.terminal import console, tell
from core.common.text import suggestion
from core.inference.answers import Convert
from core.inference.network import Network
from core.loading.images import Images
from core.metrics.answers import identity
from data.reading import ingest
from data.reading.download import download
from data.reading.progress import bar

Errors = dict[str, dict[int, float]]  # kind -> {severity: share of the images that are misclassified}


@dataclass(frozen=True)
class Measured:
    """The errors of a network on the same images, clean and corrupted."""

    images: int
    clean: float
    corrupted: Errors

    @property
    def mean(self) -> float:
        """The mean error over kinds and severities."""
        return float(np.mean([error for each in self.corrupted.values() for error in each.values()]))

    def relative(self, other: Measured) -> dict[str, float]:
        """Kind -> the errors over those of another network, whose mean is the mean corruption error of the paper
        (section 4.2). A kind without any error of the other network is left out."""
        totals = {
            kind: (sum(each.values()), sum(other.corrupted[kind].values())) for kind, each in self.corrupted.items()
        }
        return {kind: own / theirs for kind, (own, theirs) in totals.items() if theirs}

    def facts(self) -> dict[str, Any]:
        """What is recorded."""
        return {"images": self.images, "error": self.clean, "corrupted": self.corrupted, "mean_error": self.mean}


def kinds_for(side: int, asked: Sequence[str]) -> list[str]:
    """The kinds among those that are asked for that can be applied to images of this side; the others are named. The
    photographs of frost are downloaded. Raises UserError if one is unknown, or none is left."""
    if unknown := [kind for kind in asked if kind not in KINDS]:
        known = suggestion(unknown[0], KINDS)
        raise UserError([f"--kinds {unknown[0]}: this kind of corruption is not available{known}"])
    reasons = {kind: lacking(kind, side) or (_without_frost() if kind == "frost" else "") for kind in asked}
    for kind, reason in reasons.items():
        if reason:
            tell(f"left out: {kind}, for images of {side} pixels: {reason}")
    if not (left := [kind for kind, reason in reasons.items() if not reason]):
        raise UserError([f"no kind of corruption can be applied to images of {side} pixels"])
    return left


def _without_frost() -> str:
    """Why the photographs of frost cannot be had; "" if they are there."""
    try:
        make_folder(frost.wheel().parent)
        download(frost.URL, frost.wheel(), frost.SHA256)
    except (DataError, OSError) as error:
        return f"its photographs are missing: {'; '.join(str(error).splitlines()[:2])}"
    damaged = sha256_of(frost.wheel()) != frost.SHA256
    return f"{frost.wheel()} is damaged; delete it to download it again" if damaged else ""


def measure(
    network: Network, images: Images, convert: Convert, kinds: Sequence[str], severities: Sequence[int]
) -> Measured:
    """The errors of a network on single-label images. The corruption of an image depends on its content, kind and
    severity, and on nothing else."""
    wrong = np.zeros((len(kinds), len(severities)), np.int64)
    clean = 0
    with bar(
        f"classifying {len(images):,} images, each corrupted {wrong.size} times", len(images), "images"
    ) as advance:
        for start in range(0, len(images), network.chunk):
            pixels = convert(images.pixels[images.rows[start : start + network.chunk]])
            targets = images.targets[start : start + network.chunk]
            clean += _wrong(network, pixels, targets)
            ways = _ways(pixels, kinds, severities)
            for place, corrupted in enumerate(ingest.in_threads(_corrupted, ways)):
                wrong.flat[place] += _wrong(network, corrupted, targets)
            advance(len(targets))
    shares = wrong / len(images)
    errors = {kind: dict(zip(severities, row, strict=True)) for kind, row in zip(kinds, shares.tolist(), strict=True)}
    return Measured(len(images), clean / len(images), errors)


def _wrong(network: Network, pixels: np.ndarray, targets: np.ndarray) -> int:
    return int((network.logits(pixels).argmax(dim=1).numpy() != targets).sum())


def _ways(
    pixels: np.ndarray, kinds: Sequence[str], severities: Sequence[int]
) -> Iterator[list[tuple[Corruption, np.ndarray, int]]]:
    """For each kind and severity, (corruption, image, key) of all images."""
    ids = np.array([int(identity(image), 16) for image in pixels], np.uint64).astype(np.int64)
    for kind in kinds:
        for severity in severities:
            keys = randomness.fold(randomness.key(0, "corruption", kind, severity), ids)
            corruption = Corruption(kind, severity)
            yield [(corruption, image, key) for image, key in zip(pixels, keys.tolist(), strict=True)]


def _corrupted(batch: Sequence[tuple[Corruption, np.ndarray, int]]) -> np.ndarray:
    return np.stack([corruption(image, key) for corruption, image, key in batch])


def show(title: str, found: Measured, other: Measured | None, name: str) -> None:
    """Print the accuracy of each kind and severity. other: of the run `name`, for the error relative to it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    tell(f"{title}: {found.images:,} images, accuracy without corruption {1 - found.clean:.4f}")
    grid = Table(box=SIMPLE_HEAD)
    severities = next(iter(found.corrupted.values()))
    ratios = found.relative(other) if other else {}
    heads = ["corruption", *(f"severity {severity}" for severity in severities), "mean error"]
    for head in [*heads, *([f"of {name}'s"] if other else [])]:
        grid.add_column(head, justify="left" if head == "corruption" else "right")
    for kind, errors in found.corrupted.items():
        cells = [f"{1 - error:.4f}" for error in errors.values()]
        mean, ratio = f"{np.mean(list(errors.values())):.4f}", f"{ratios[kind]:.1%}" if kind in ratios else "-"
        grid.add_row(kind, *cells, mean, *([ratio] if other else []))
    console().print(grid)
    over = "over 1 kind" if len(found.corrupted) == 1 else f"over {len(found.corrupted)} kinds"
    tell(f"mean corruption error: {found.mean:.4f}, {over}")
    if ratios:
        mean = f"{np.mean(list(ratios.values())):.1%}"
        tell(f"relative to {name}, the mCE of Hendrycks and Dietterich 2019: {mean}, {over}")
