"""Measure the latency of a network, without keeping or comparing anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.export import latency
from core.export.export import EAGER, threads
from core.export.formats import Format, Source
from core.export.graph import served
from core.export.latency import Latency
from core.export.torch_engine import predictor
from core.record.run import RecordedRun


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


def of_one_image(run: RecordedRun) -> float:
    """Latency in ms of the network of a run for one image, in eager PyTorch on the CPU in float32: the median. Raises
    UserError if the run has no weights."""
    images = np.zeros((1, *run.record["data"]["image_shape"]), np.uint8)
    return latency.measure({EAGER: predictor(served(run))}, images, 2.0, sizes=(1,))[EAGER][1].p50
