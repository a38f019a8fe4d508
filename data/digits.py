"""Digits: small real images that need no download."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from core.common.errors import DataError
from core.loading.images import Dataset, Images, Splits
from core.loading.stratify import stratified

TEST_SEED = -1  # no split_seed can be negative: the test split is fixed and drawn apart from validation


class Digits(Dataset):
    """1,797 handwritten digits, gray, 8 x 8, ten classes, as scikit-learn brings them (from UCI)."""

    embedded: ClassVar[bool] = True

    test_fraction: float = Field(0.2, gt=0, lt=1, description="share held out for test, in each class; fixed")

    def load(self, root: Path | None) -> Splits:
        """Raises DataError where a root is given: the images come with scikit-learn."""
        if root is not None:
            raise DataError([f"Digits come with scikit-learn: --root {root} has nothing to do with them; leave it out"])
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
