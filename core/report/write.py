"""Create a report: compute it, draw its plots and write it to the artifacts of the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.common import plots
from core.inference.network import Network
from core.loading.images import Splits
from core.record.journal import Journal, log_text
from core.record.run import REPORT, RecordedRun
from core.report.analysis import Findings, analyze
from core.report.calibration import reliability
from core.report.page import overlay, page
from core.report.seeds import over_seeds

MISTAKES, DUPLICATES = "mistakes.png", "near_duplicates.png"


def make(journal: Journal, run: RecordedRun, network: Network, splits: Splits, seconds: float) -> Findings:
    """Write report.html and its PNGs, and log the findings as report/ metrics.

    The run must have been tested, and its learning curves and confusion matrix drawn. seconds: approximate time limit.
    """
    found = analyze(network, splits, seconds)
    fitted = {f"temperature {found.temperature:.2f}": found.after} if found.temperature else {}
    with plots.optional(plots.RELIABILITY):
        reliability({"uncalibrated": found.before, **fitted}, journal.artifact(plots.RELIABILITY))
        journal.log_artifact(plots.RELIABILITY)
    with plots.optional(MISTAKES):
        _mistakes(found, journal)
    with plots.optional(DUPLICATES):
        _pairs(found, journal)
    hard: list[tuple[np.ndarray, str]] = []
    with plots.optional("hardest images over seeds"):
        hard = over_seeds(run, splits)
    log_text(journal, REPORT, page(run, found, hard))
    epoch = max(run.history["test/accuracy"])
    metrics = {"report/near_duplicates": float(len(found.duplicates.pairs))}
    if found.temperature:
        metrics |= {"report/temperature": found.temperature, "report/ece_at_temperature": found.after.ece}
    journal.metrics(epoch, metrics)
    return found


def _mistakes(found: Findings, journal: Journal) -> None:
    tiles, titles = [], []
    for one in found.mistakes:
        tiles += [_color(one.pixels), *([overlay(one.pixels, one.map)] if one.map is not None else [])]
        titles += [f"{one.true}, taken for", f"{one.predicted} {one.confidence:.0%}"][: 1 if one.map is None else 2]
    _sheet(journal, MISTAKES, tiles, titles)


def _pairs(found: Findings, journal: Journal) -> None:
    tiles = [_color(pixels) for pair in found.pairs for pixels in pair]
    alike = found.duplicates.alike[: len(found.pairs)]
    _sheet(journal, DUPLICATES, tiles, [f"{name} {value:.3f}" for value in alike for name in ("test", "train")])


def _sheet(journal: Journal, name: str, tiles: list[np.ndarray], titles: list[str]) -> None:
    path: Path = journal.artifact(name)
    if tiles:
        plots.contact_sheet(np.stack(tiles), titles, path)
        journal.log_artifact(name)
    else:
        path.unlink(missing_ok=True)  # of an earlier report


def _color(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels[..., :1], 3, axis=2)
