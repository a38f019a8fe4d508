"""Measure the latency of a network in several engines, without keeping or comparing anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.export import latency
from core.export.export import EAGER, threads
from core.export.formats import Format, Source
from core.export.latency import Latency
from core.export.torch_engine import predictor


def benchmark(
    source: Source, formats: Sequence[Format], folder: Path, number: int, seconds: float = 5.0
) -> dict[str, Mapping[int, Latency]]:
    """{engine: latency by batch size}, eager PyTorch first.

    folder: an empty one, for the files of the engines.  number: of threads.  seconds: as in `latency.measure`. Raises
    UserError if a format cannot be made.
    """
    shape = source.run.record["data"]["image_shape"]
    images = np.random.default_rng(0).integers(0, 256, (max(latency.BATCHES), *shape), dtype=np.uint8)
    with threads(number):
        engines = {EAGER: predictor(source.network)}
        for kind in formats:
            place = folder / kind.name
            place.mkdir()
            kind.write(kind.make(source), place, json.dumps({"precision": kind.precision}))
            engines[kind.name] = kind.opened(place, number, source)
        return dict(latency.measure(engines, images, seconds))
