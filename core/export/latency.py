"""Latency and throughput, measured in turns, so that a busy machine disturbs all contestants alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.export.predictions import Predict

BATCHES = (1, 32)
CALLS = 200  # of each contestant and batch size, if there is time
BLOCK = 10  # calls in a turn
SETTLE = 2  # calls before those of a turn: threads of the one before may still be spinning


@dataclass(frozen=True)
class Latency:
    """Of one contestant at one batch size. p50, p99: ms of a call.  rate: images per second.  ratio: rate over that of
    the first contestant, the median over turns.  calls: number measured."""

    p50: float
    p99: float
    rate: float
    ratio: float
    calls: int


def measure(
    contestants: Mapping[str, Predict], images: np.ndarray, seconds: float, sizes: Sequence[int] = BATCHES
) -> dict[str, dict[int, Latency]]:
    """{name: {batch size: latency}}; the ratios are against the first contestant.

    images: uint8 [N, H, W, C], repeated as needed.  seconds: about the time for one contestant and batch size; every
    contestant has at least two turns.
    """
    found: dict[str, dict[int, Latency]] = {name: {} for name in contestants}
    for size in sizes:
        batch = np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])))
        turns: dict[str, list[list[float]]] = {name: [] for name in contestants}
        spent = 0.0
        while len(next(iter(turns.values()))) < CALLS // BLOCK and (
            spent < seconds * len(contestants) or len(next(iter(turns.values()))) < 2
        ):
            began = time.perf_counter()
            for name, predict in contestants.items():
                turns[name].append(_turn(predict, batch))
            spent += time.perf_counter() - began
        base = np.median(next(iter(turns.values())), axis=1)
        for name, times in turns.items():
            each = np.array(times)
            flat = each.ravel()
            found[name][size] = Latency(
                p50=float(np.percentile(flat, 50)) * 1e3,
                p99=float(np.percentile(flat, 99)) * 1e3,
                rate=size / float(flat.mean()),
                ratio=float(np.median(base / np.median(each, axis=1))),
                calls=flat.size,
            )
    return found


def _turn(predict: Predict, batch: np.ndarray) -> list[float]:
    """Seconds of each of BLOCK calls."""
    for _ in range(SETTLE):
        predict(batch)
    times = []
    for _ in range(BLOCK):
        began = time.perf_counter()
        predict(batch)
        times.append(time.perf_counter() - began)
    return times
