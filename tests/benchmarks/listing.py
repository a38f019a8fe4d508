"""CPU time of listing runs on record, in turn with the floor: reading the record and the summary of each as JSON.

    python -m tests.benchmarks.listing [RUNS] [ROUNDS]

One run is trained, and copied under other ids; every hundredth has a tag.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice

from core.common import paths
from core.compare.listing import Wanted, frame, listed
from core.compare.runs import rows
from core.launch import Launch
from core.record.labels import write_labels
from core.runs.train import train
from tests.benchmarks.common import in_turn, show
from tests.support.experiments.tiny import EXPERIMENT


def fill(number: int) -> None:
    """Put runs on record."""
    run = train(EXPERIMENT.but({"epochs": 1, "limit": 64}), Launch(mlflow=False, threads=1), "tiny")
    record = json.loads((run.folder / "artifacts" / "record.json").read_text())
    for at in range(number - 1):
        name = f"tiny-2025{at // 86400 % 12 + 1:02d}01-{at // 3600 % 24:02d}{at // 60 % 60:02d}{at % 60:02d}-{at:04x}"
        folder = paths.runs() / name
        (folder / "artifacts").mkdir(parents=True)
        (folder / "artifacts" / "record.json").write_text(json.dumps(record | {"run": name}, indent=2))
        for file in ("journal.jsonl", "summary.json"):
            shutil.copy(run.folder / file, folder / file)
        if at % 100 == 0:
            write_labels(folder, {"stage": "paper"})


def floor() -> None:
    """Read what every list has to read."""
    for folder in paths.runs().iterdir():
        json.loads((folder / "artifacts" / "record.json").read_bytes())
        json.loads((folder / "summary.json").read_bytes())


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """Measures the CPU time of some work."""

    def measure() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return measure


def main(number: int, rounds: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["LABBOOK_HOME"] = home
        fill(number)
        candidates = {
            "floor: record.json and summary.json": seconds(floor),
            "the latest 30 (labbook runs)": seconds(lambda: list(islice(listed(Wanted()), 31))),
            "all with one tag": seconds(lambda: list(listed(Wanted(tags={"stage": "paper"})))),
            "all (labbook runs --json)": seconds(lambda: [run.as_object() for run in listed(Wanted())]),
            "a DataFrame of all (runs_frame)": seconds(lambda: frame(listed(Wanted()))),
            "rows of labbook compare": seconds(lambda: rows(["tiny"])),
        }
        show(f"{number:,} runs on record, CPU time", in_turn(candidates, rounds), next(iter(candidates)), "ms", 1e3)


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], "10000", "3"][:2]))
