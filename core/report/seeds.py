"""The hardest test images over the seeds that a run was trained with."""

from __future__ import annotations

import numpy as np

from core.inference.answers import name_of, read
from core.inference.hardest import hardest
from core.inference.paired import pictures
from core.loading.images import Splits
from core.record.run import RecordedRun, parent_of

MOST = 12  # images shown


def over_seeds(run: RecordedRun, splits: Splits) -> list[tuple[np.ndarray, str]]:
    """(pixels uint8 [H, W, C], caption) of the test images that most seeds get wrong, over the seeds of the same parent
    that have been tested so far. Empty if these are fewer than two."""
    parent = parent_of(run)
    if parent is None or not parent.record.get("seeds"):
        return []
    tested = [each for each in parent.children() if (each.folder / "artifacts" / name_of("test")).exists()]
    by_seed = {each.record["declaration"]["seed"]: each for each in reversed(tested)}  # of repeated seeds, the latest
    others = [each for each in by_seed.values() if each.id != run.id]
    if not others:
        return []
    answers = [read(each, "test") for each in (run, *others)]
    found = hardest(answers, MOST)
    return list(zip(pictures(splits.test, answers[0], found.places), found.captions(), strict=True))
