"""What comparing costs, against one search of MLflow's client over the same runs.

    python -m tests.benchmarks.compare [RUNS [ROUNDS [SETTINGS]]]

Runs of 50 settings (or SETTINGS), each with the 50 or so params of a declaration and 12 metrics, on record and in an
SQLite store. To reach: 1,000 runs in at most twice the time of MlflowClient.search_runs; 10,000 in proportion.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from core.compare.comparison import compare
from core.compare.runs import rows
from core.compare.table import sentences, table
from core.record.journal import Journal
from experiments.digits_cnn import EXPERIMENT
from tests.benchmarks.common import in_turn, show

SETTINGS = 50
METRICS = [
    f"{split}/{name}" for split in ("val", "test") for name in ("accuracy", "loss", "nll", "f1", "ece", "recall")
]


def write(home: Path, runs: int, settings: int) -> None:
    """On record and in MLflow."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiment_id = client.create_experiment("digits_cnn", artifact_location=f"file://{home}/artifacts")
    for number in range(runs):
        changed = EXPERIMENT.but({"optimizer.lr": 0.001 * (1 + number % settings), "seed": number // settings})
        params = {name: str(value) for name, value in changed.flat().items()}
        metrics = dict.fromkeys(METRICS, number * 7919 % 1000 / 1000)
        folder = home / "mlruns" / "runs" / f"digits_cnn-20260101-{number:06d}-abcd"
        journal = Journal(folder)
        journal.write("params", values=params)
        record = {"labbook": 2, "run": folder.name, "experiment": "digits_cnn", "variant": None, "parent": None,
                  "declaration": changed.record(), "data": {"digest": "d"}, "facts": {"parameters": "1"}}  # fmt: skip
        journal.artifact("record.json").write_text(json.dumps(record))
        journal.close("FINISHED")
        summary = {"status": "FINISHED", "metrics": metrics, "whole": True}
        (folder / "summary.json").write_text(json.dumps(summary))
        run = client.create_run(experiment_id)
        client.log_batch(
            run.info.run_id,
            [Metric(name, value, 0, 0) for name, value in metrics.items()],
            [Param(name, value) for name, value in params.items()],
        )


COMPARE = 'found = compare(rows(["digits_cnn"])[0], "test/accuracy"); table(found); list(sentences(found))'


def peak_memory_mb(action: str) -> float:
    """Of a process of its own, so that MLflow's is not in it; by /proc, for getrusage counts what stood before exec."""
    code = f"""
import scipy.stats
from core.compare.comparison import compare
from core.compare.runs import rows
from core.compare.table import sentences, table
{action}
print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout) / 1024


def timed(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    settings = int(sys.argv[3]) if len(sys.argv) > 3 else SETTINGS
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(prefix="labbook-bench-") as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder)
        patch.setenv("LABBOOK_HOME", folder)
        write(home, runs, settings)
        client = MlflowClient(f"sqlite:///{home}/mlflow.db")
        (experiment,) = [e for e in client.search_experiments() if e.name == "digits_cnn"]

        def searched() -> None:
            token = None
            while True:
                page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
                token = page.token
                if not token:
                    return

        def compared() -> None:
            found = compare(rows(["digits_cnn"])[0], "test/accuracy")
            assert len(table(found)) == settings
            assert len(list(sentences(found))) >= settings - 1  # and which may be the best

        figures = in_turn({"search_runs": lambda: timed(searched), "compare": lambda: timed(compared)}, rounds)
        peaks = [peak_memory_mb(action) for action in ("", COMPARE)]
    print(f"\npeak memory of the process that compares: {peaks[1]:,.0f} MB, {peaks[0]:,.0f} MB of it for imports")
    show(f"{runs:,} runs", figures, "search_runs", "ms", 1000)


if __name__ == "__main__":
    main()
