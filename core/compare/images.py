"""Differences between settings over images, too: another test set would have had other images.

Seeds and images are crossed: each run answers each image. The variance of a mean over both is the sum of what seeds,
images, and the rest contribute (Obuchowski and Rockette 1995, for readers and cases; Hillis 2007).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.compare.runs import Row
from core.compare.statistics import Difference


@dataclass(frozen=True)
class Scores:
    """What runs score on the images of a split that all of them have answered.

    values: id of a run -> its score on each image, float64 [N], whose mean is its value of the metric. If the data
    declare groups, such as patients, N is their number, and a score is that of the images of a group.  what: "images"
    or "groups".  images: number of images.  left_out: number of images that only some of the runs have answered.
    others: name of another metric -> {id of a run: its value}.
    """

    values: Mapping[str, np.ndarray]
    what: str
    images: int
    left_out: int = 0
    others: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


# of the finished runs of a comparison, by a metric; raises UserError if there are no scores of all of them
Reader = Callable[[Sequence[Row], str], Scores]


def over_images(
    a: Mapping[Any, np.ndarray],
    b: Mapping[Any, np.ndarray],
    overlaps: tuple[float, float] = (0.0, 0.0),
    seeds: bool = True,
) -> Difference | None:
    """Test the difference between two settings over images. a, b: key (a seed) -> score on each image, float64 [N], of
    the same images.  overlaps: as of `difference`.  seeds: over seeds, too; otherwise, and if either setting has a
    single one, over images alone.

    Seeds that are in both are paired, as by `difference`. The squared error of a difference that is a mean over n seeds
    and N images is that over seeds plus the covariance over images of one seed with another, or 0 if that is negative.
    The first part has n - 1 degrees of freedom, the second one N - 1. Two single runs of right and wrong answers are
    compared by the exact McNemar test. Returns None for a score that is not finite, and for fewer than two images.
    """
    common = sorted(set(a) & set(b), key=repr)
    paired = len(common) > 1 or bool(common and min(len(a), len(b)) == 1)
    x, y = (np.stack([of[key] for key in (common if paired else of)]).astype(np.float64) for of in (a, b))
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or x.shape[1] < 2:
        return None
    n, count, means = min(len(x), len(y)), x.shape[1], (float(x.mean()), float(y.mean()))
    mean, apart = float(x.mean(axis=0).mean() - y.mean(axis=0).mean()), x.mean(axis=0) - y.mean(axis=0)
    whole = float(apart.var(ddof=1)) / count
    if not seeds or n < 2:
        flips = _flips(x[0], y[0]) if len(x) == len(y) == 1 else None
        return Difference(mean, means, math.sqrt(whole), count - 1.0, n, paired, 0.0, 0.0, count, 1.0, flips)
    parts = [_parts(x - y)] if paired else [_parts(x), _parts(y)]
    sizes, extra = [n] if paired else [len(x), len(y)], [max(overlaps)] if paired else list(overlaps)
    each = [of_seeds * (1 + size * more) for (of_seeds, _), size, more in zip(parts, sizes, extra, strict=True)]
    below = sum(v**2 / (size - 1) for v, size in zip(each, sizes, strict=True))
    freedom = sum(each) ** 2 / below if below else n - 1.0
    deviation = math.sqrt(sum(of_seeds * size for (of_seeds, _), size in zip(parts, sizes, strict=True)))
    of_images = max(whole - sum(rest for _, rest in parts), 0.0)
    squared = sum(each) + of_images
    share = of_images / squared if squared else 0.0
    return Difference(mean, means, math.sqrt(squared), freedom, n, paired, deviation, max(overlaps), count, share)


def _parts(scores: np.ndarray) -> tuple[float, float]:
    """(the part of seeds, what remains) of the squared error of the mean of scores [n, N]: the mean squares of an
    analysis of variance with two crossed factors, divided by n N. The part of seeds is at least what remains, which is
    what they would have if they differed by chance alone."""
    n, count = scores.shape
    of_seeds, of_images = scores.mean(axis=1), scores.mean(axis=0)
    rest = scores - of_seeds[:, None] - of_images + scores.mean()
    remaining = float((rest**2).sum()) / ((n - 1) * (count - 1)) / (n * count)
    return max(float(of_seeds.var(ddof=1)) / n, remaining), remaining


def _flips(a: np.ndarray, b: np.ndarray) -> tuple[int, int] | None:
    """How many images only a gets right, and only b; None if the scores are not of right and wrong answers."""
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        return None
    return int((a > b).sum()), int((b > a).sum())
