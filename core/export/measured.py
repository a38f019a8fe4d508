"""What is measured of an export, and what it is refused for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from core.common.statistics import Z, paired_difference
from core.export.latency import Latency

GOLDEN = 1e-3  # largest difference of a probability of a golden image, for formats in float32
SLOWER = 0.95  # images per second over eager PyTorch's below which an export counts as slower


@dataclass(frozen=True)
class Lost:
    """Answers that an export changes, of n images. broken: right in eager PyTorch, wrong in the export.  repaired: the
    other way.  low, high: 95 % interval of the share that is lost."""

    n: int
    broken: int
    repaired: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """Share of the images that is lost, negative if more are repaired than broken."""
        return (self.broken - self.repaired) / self.n


def lost(eager: np.ndarray, export: np.ndarray) -> Lost:
    """Compare which images are right, bool [N]."""
    broken, repaired = int((eager & ~export).sum()), int((~eager & export).sum())
    return Lost(len(eager), broken, repaired, *paired_difference(broken, repaired, len(eager)))


@dataclass(frozen=True)
class Measured:
    """The measurements of one export.

    size: of its files, in bytes.  golden: largest difference of a probability of the golden images.  val: answers lost
    on the validation images.  same: whether no answer of a validation image is another one.  latency: by batch size;
    none for a format that no engine runs.  test, eager_test: accuracies on the test images, which are read for accepted
    exports only.  refused: the reasons, if it is.  folder: FOLDER/NAME has the files; empty if they were not kept.
    digest: of the files, see core/export/kept.py.
    """

    name: str
    size: int
    golden: float
    val: Lost
    same: bool
    latency: Mapping[int, Latency]
    refused: tuple[str, ...]
    test: float | None = None
    eager_test: float | None = None
    folder: str = ""
    digest: str = ""

    def record(self) -> dict[str, Any]:
        """The measurements for JSON."""
        return {name: value for name, value in asdict(self).items() if value != ""}

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> Self:
        """The measurements of `record`, from JSON."""
        latency = {int(size): Latency(**each) for size, each in fields["latency"].items()}
        found = {"val": Lost(**fields["val"]), "latency": latency, "refused": tuple(fields["refused"])}
        return cls(**{**fields, **found})


def reasons(
    precision: str, golden: float, val: Lost, same: bool, latency: Mapping[int, Latency], at_most: float
) -> tuple[str, ...]:
    """Why an export is refused, in sentences; none if it is accepted.

    at_most: share of the answers that may be lost. An export that changes no answer in float32 loses nothing, however
    few images there are; in lower precision it has to be shown on enough of them.
    """
    found = []
    if precision == "fp32" and not golden <= GOLDEN:
        found.append(f"golden images differ by {golden:.1e}, more than {GOLDEN}")
    if not (same and precision == "fp32") and val.high > at_most:
        shown = f"{100 * val.share:z.2f} points lost on {val.n:,} images of val, but up to {100 * val.high:.2f} (95 %)"
        least = math.ceil(Z**2 * (1 - at_most) / at_most)  # see paired_difference
        few = f"; it takes {least:,} images to show a loss below {100 * at_most:g}" if val.n < least else ""
        found.append(shown + few)
    if latency and all(each.ratio < SLOWER for each in latency.values()):
        rates = ", ".join(f"{each.ratio:.2f}x at batch {size}" for size, each in latency.items())
        found.append(f"slower than eager PyTorch: {rates}")
    return tuple(found)
