"""What `labbook metric` costs, against scikit-learn's function on arrays that are in memory.

    python -m tests.benchmarks.metric [RUNS [ROUNDS]]

100 runs (or RUNS), copies of one, each with answers for 10,000 test images and 10 classes. The command is a process of
its own, imports included. To reach: under 1 s per run, for each metric.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from core import randomness as K
from core.inference.answers import log_answers, name_of
from core.launch import Launch
from core.metrics.answers import Answers, bounded
from core.record.journal import Journal
from core.runs.train import train
from experiments.digits_cnn import EXPERIMENT
from tests.benchmarks.common import in_turn, show

IMAGES = 10_000
METRICS = {"accuracy": (), "auroc": (), "MulticlassAUROC": (), "TopK": ("--argument", "k=3")}


def made(classes: tuple[str, ...]) -> Answers:
    """Random answers, most of them right."""
    rows = np.arange(IMAGES)
    targets = rows % len(classes)
    logits = 3 * K.uniform(K.sample_keys(0, 0, np.arange(IMAGES * len(classes))), "benchmark").reshape(IMAGES, -1)
    logits[rows, targets] += 1
    return bounded("test", classes, np.array([f"{row:016x}" for row in rows]), targets, logits)


def write(runs: int) -> tuple[Answers, list[str]]:
    """Train one run, give it these answers, and copy it. Returns the answers and the ids of the copies."""
    run = train(EXPERIMENT.but({"epochs": 1}), Launch(mlflow=False, device="cpu"), "digits_cnn")
    answers = made(tuple(run.record["data"]["classes"]))
    journal = Journal(run.folder)
    log_answers(journal, name_of("test"), answers)
    journal.close(None)
    names = [f"digits_cnn-20260101-{number:06d}-abcd" for number in range(runs)]
    for name in names:
        shutil.copytree(run.folder, run.folder.parent / name)
    return answers, names


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory(prefix="labbook-bench-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(Path(folder)))
        answers, names = write(runs)
        probabilities = answers.probabilities

        def command(metric: str) -> float:
            words = [*names, "--metric", metric, *METRICS[metric]]
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "core", "metric", *words], capture_output=True, text=True, check=True
            )
            seconds = time.perf_counter() - began
            assert f"n = {runs}" in done.stdout, done.stdout
            return seconds / runs

        def alone() -> float:
            began = time.perf_counter()
            roc_auc_score(answers.targets, probabilities, multi_class="ovr")
            return time.perf_counter() - began

        named = {f"labbook metric --metric {name}": lambda name=name: command(name) for name in METRICS}
        figures = in_turn({"roc_auc_score": alone, **named}, rounds)
    show(f"{runs} runs, seconds per run", figures, "roc_auc_score", "ms", 1000)


if __name__ == "__main__":
    main()
