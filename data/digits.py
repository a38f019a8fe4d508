"""Digits: the handwritten digits of scikit-learn, which need no download."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from core.common.errors import DataError
from core.loading.images import Dataset, Images, Splits
from core.loading.stratify import stratified

TEST_SEED = -1  # differs from every split_seed, which cannot be negative: the test split is fixed


class Digits(Dataset):
    """Digits: 1,797 handwritten digits, 8x8, grayscale, 10 classes, included in scikit-learn (from UCI)."""

    embedded: ClassVar[bool] = True

    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="fraction of each class used as the test split, which is the same for all runs"
    )

    def load(self, root: Path | None) -> Splits:
        """The splits. Raises DataError if a root is given, because the images are included in scikit-learn."""
        if root is not None:
            raise DataError([f"Digits is included in scikit-learn and does not use --root {root}; omit --root"])
        pixels, targets = _read()
        pixels = np.rint(pixels * (255 / 16)).astype(np.uint8)[..., None]  # stored as 0..16
        everything = Images(pixels, np.arange(len(targets)), targets)
        held = stratified(targets, self.test_fraction, TEST_SEED)
        train, val = self.divide(everything.take(~held))
        digest = hashlib.sha256(b"digits 1" + pixels.tobytes() + targets.astype("<i8").tobytes()).hexdigest()
        classes = tuple(str(digit) for digit in range(10))
        source = f"scikit-learn load_digits: {len(targets):,} images"
        return Splits("digits", classes, train, val, everything.take(held), digest, source)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """(pixels float64 [N, 8, 8] of 0..16, targets int64 [N]), as `load_digits` returns them.

    The file is read without importing scikit-learn, which takes longer than a short training.
    """
    package = find_spec("sklearn")
    assert package is not None
    assert package.submodule_search_locations
    path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if not path.exists():  # a version of scikit-learn that keeps it elsewhere
        from sklearn.datasets import load_digits

        raw = load_digits()
        return raw.images, raw.target.astype(np.int64)
    rows = np.loadtxt(path, delimiter=",")
    return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
