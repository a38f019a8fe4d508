"""Weights of images, with which core.loading.sampling.ImageWeighted draws them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from core.common.errors import DataError
from core.loading.images import Splits
from data.reading import cache, layout
from data.reading.disk import as_data_error
from data.reading.progress import first, printable

TRAINED = ("train", layout.WHOLE)


def mistake(weight: float) -> str | None:
    """What is wrong with the weight of an image; None if nothing is."""
    if math.isnan(weight) or math.isinf(weight):
        return "is not a finite number"
    return "is negative" if weight < 0 else None


def read(path: Path, name: str | None = None) -> np.ndarray:
    """The weights in a .npy file, or those of this name in a .npz file or in a folder of .npy files, float64 [N].

    Raises DataError, with a line for each invalid weight.
    """
    title = str(path) if name is None else f"{path}: {name}"
    try:
        with as_data_error(path):
            found = np.load(path / f"{name}.npy" if path.is_dir() else path, allow_pickle=False)
            values = found[name or ""] if isinstance(found, np.lib.npyio.NpzFile) else found
    except (ValueError, EOFError, KeyError, BadZipFile) as error:
        raise DataError([f"{title} cannot be read as weights ({printable(str(error))[:200]})"]) from None
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise DataError(
            [f"{title} is {values.dtype} {list(values.shape)}; weights are numbers, [N], one for each image"]
        )
    weights = values.astype(np.float64)
    invalid = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    wrong = [f"{title}: index {at}: the weight {weights[at]:g} {mistake(weights[at])}" for at in invalid.tolist()]
    if not wrong and not weights.any():
        wrong = [f"{title}: all weights are 0"]
    if wrong:
        raise DataError(first(wrong))
    return weights


def weighted(splits: Splits, index: cache.Index, weights: np.ndarray, title: str) -> Splits:
    """The splits with the weights of the images of train, or of all if train is divided; other images have none.

    index: of their cache, where an image is named SPLIT/NUMBER.  weights: float64 [N].  title: for messages. Raises
    DataError if there is not one weight for each of these images.
    """
    named = [name.partition("/") for name in index.names]
    count = sum(split in TRAINED for split, _, _ in named)
    if len(weights) != count:
        raise DataError([f"{title}: {len(weights):,} weights for {count:,} images of {_of(index.splits)}"])
    by_row = np.full(max(index.rows) + 1, np.nan)
    for row, (split, _, number) in zip(index.rows, named, strict=True):
        if split in TRAINED:
            by_row[row] = weights[int(number)]
    train, val, test = (replace(one, weights=by_row[one.rows]) for one in (splits.train, splits.val, splits.test))
    digest = hashlib.sha256(splits.digest.encode() + weights.tobytes()).hexdigest()
    return replace(splits, train=train, val=val, test=test, digest=digest)


def _of(splits: Sequence[str]) -> str:
    return "train" if "train" in splits else "the data"
