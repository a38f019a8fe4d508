"""Digits: the handwritten digits of scikit-learn, which need no download."""

from __future__ import annotations

import hashlib
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
        from sklearn.datasets import load_digits

        raw = load_digits()
        pixels = np.rint(raw.images * (255 / 16)).astype(np.uint8)[..., None]  # stored as 0..16
        targets = raw.target.astype(np.int64)
        everything = Images(pixels, np.arange(len(targets)), targets)
        held = stratified(targets, self.test_fraction, TEST_SEED)
        train, val = self.divide(everything.take(~held))
        digest = hashlib.sha256(b"digits 1" + pixels.tobytes() + targets.astype("<i8").tobytes()).hexdigest()
        classes = tuple(str(name) for name in raw.target_names)
        source = f"scikit-learn load_digits: {len(targets):,} images"
        return Splits("digits", classes, train, val, everything.take(held), digest, source)
