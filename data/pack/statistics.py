"""The statistics of a packed set, for pack.json."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from core.loading.normalize import LEAST_DEVIATION
from data.pack.formats import Chosen
from data.reading.layout import WHOLE


def statistics(chosen: Chosen) -> dict[str, Any]:
    """Images of each split and class, sizes in pixels of the source, and the means and deviations of the channels.

    mean, std: of pixels of 0 to 1 of the training images, or of all if there are no splits, each image with the same
    weight, whatever its size.
    """
    rows = chosen.found.rows[chosen.rows]
    counts = Counter(zip(chosen.splits, chosen.labels, strict=True))
    splits = {
        split: {
            "images": sum(count for (of, _), count in counts.items() if of == split),
            "classes": {name: counts[split, name] for name in chosen.classes},
        }
        for split in sorted(set(chosen.splits))
    }
    trained = np.isin(np.array(chosen.splits), ("train", WHOLE))
    sums = rows["sums"][trained if trained.any() else slice(None)]
    # exact sums, so that the order of the images does not matter
    mean, square = ([math.fsum(sums[:, of, channel]) / len(sums) for channel in range(3)] for of in (0, 1))
    std = [math.sqrt(max(s - m * m, LEAST_DEVIATION**2)) for m, s in zip(mean, square, strict=True)]
    return {
        "classes": list(chosen.classes),
        "splits": splits,
        "mean": [round(value, 6) for value in mean],
        "std": [round(value, 6) for value in std],
        "width": _spread(rows["width"]),
        "height": _spread(rows["height"]),
        "bytes": _spread(rows["size"]),
        "copied": int(rows["copied"].sum()),
        "reduced": int((~rows["copied"]).sum()),
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def normalize(found: dict[str, Any]) -> str:
    """The statistics as `--normalize` takes them."""
    mean, std = (",".join(f"{value:.4f}" for value in found[name]) for name in ("mean", "std"))
    return f"{mean}/{std}"
