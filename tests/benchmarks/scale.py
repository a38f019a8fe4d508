"""How far labbook goes: a study of a thousand workers, a comparison of 100,000 runs, 64 runs mirrored at once.

    python -m tests.benchmarks.scale                          every table, at full size
    python -m tests.benchmarks.scale study --parents 4 --workers 25 --trials 200 --seconds 5
    python -m tests.benchmarks.scale compare --runs 1000,10000

study: searches of labbook (`parents`, as on so many machines) share a study in a PostgreSQL server behind Optuna's
gRPC proxy. Their workers are threads that sleep in place of training; everything else is what `search` runs.
compare: records as training leaves them, read and compared by `labbook compare` in a process of its own.
mirror: journals written side by side, each at 20 entries a second, and sent to one MLflow server.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import queue
import shutil
import statistics
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import optuna
import psutil

from core.common import paths
from core.common.sealed import sealed, unsealed
from core.launch import Launch
from core.record.journal import Journal, status
from core.runs.train import train
from core.search import Float, pool
from core.search.options import Search
from core.search.search import search
from core.search.storage import open_storage
from core.search.trial import Outcome, Task
from core.tracking.api import Mirror
from tests.benchmarks.common import measured
from tests.support import postgresql
from tests.support.experiments.tiny import EXPERIMENT
from tests.support.mlflow_server import Server, points, run_of
from tests.support.processes import free_port

SPACE = {"optimizer.lr": Float(0.01, 1.0, log=True)}
FORK = multiprocessing.get_context("fork")  # processes share the memory of imports
STUDY, WRITERS = "scale", 8


def _started(target: Callable[..., None], calls: list[tuple[Any, ...]]) -> list[Any]:
    """A process for each call."""
    each = [FORK.Process(target=target, args=call) for call in calls]
    for process in each:
        process.start()
    return each


# a study


class Sleeper:
    """A worker that sleeps in place of training: a thread that speaks as `core.search.worker` does."""

    def __init__(self, seconds: float, done: Path):
        self.seconds, self.done = seconds, done
        self.messages, self._mine = Pipe(duplex=False)
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while isinstance(task := self._inbox.get(), Task):
            value = 1 - abs(math.log10(task.declaration["optimizer"]["lr"])) / 2
            self._mine.send(("started",))
            time.sleep(self.seconds)
            self._mine.send(("epoch", task.number, 1, value))
            self._inbox.get()
            self._mine.send(("score", task.number, [value]))
            self._inbox.get()
            with self.done.open("a") as file:
                file.write(f"{task.number}\n")
            self._mine.send(("ended", Outcome(task.number, [value])))

    def send(self, message: Any) -> None:
        self._inbox.put(message)

    def stop(self) -> None:
        self._inbox.put(None)

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def end(self, seconds: float) -> None:
        self.stop()


def parent(given: Any, url: str | None, folder: Path, number: int) -> None:
    """A search with sleeping workers, and what it took on record."""
    os.environ["LABBOOK_HOME"] = str(folder / f"home-{number}")
    done = folder / f"done-{number}"
    done.touch()

    def start(place: int) -> pool.Worker:
        return pool.Worker(place, sleeper := Sleeper(given.seconds, done), sleeper.messages)

    pool.start_worker = start
    first = psutil.Process().memory_full_info().uss
    with (folder / f"log-{number}").open("w") as log, contextlib.redirect_stdout(log):
        options = Search(
            trials=given.trials, workers=given.workers, sampler="random", pruner="none", storage=url, study=STUDY,
            goal=("val/accuracy",), timeout=given.timeout,
        )  # fmt: skip
        search(EXPERIMENT.but({"epochs": 1}), SPACE, options, Launch(mlflow=False, threads=1), "tiny")
    last = psutil.Process().memory_full_info().uss
    (folder / f"memory-{number}").write_text(json.dumps([first, last]))


def bare(given: Any, url: str, folder: Path, number: int) -> None:
    """The floor: Optuna alone, a thread for each worker."""
    storage = open_storage(url, folder)
    study = optuna.load_study(study_name=STUDY, storage=storage, sampler=optuna.samplers.RandomSampler())

    def worker(place: int) -> None:
        for _ in range(max(1, given.trials // (given.parents * given.workers))):
            trial = study.ask()
            value = trial.suggest_float("lr", 0.01, 1.0, log=True)
            time.sleep(given.seconds)
            study.tell(trial, value)
            with (folder / f"done-{number}").open("a") as file:
                file.write(f"{trial.number}\n")

    with ThreadPoolExecutor(given.workers) as threads:
        list(threads.map(worker, range(given.workers)))


@contextlib.contextmanager
def proxy(url: str, port: int) -> Iterator[psutil.Process]:
    """Optuna's gRPC proxy in front of a database."""
    process = FORK.Process(target=_serve, args=(url, port), daemon=True)
    process.start()
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.join()


def _serve(url: str, port: int) -> None:
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    optuna.storages.run_grpc_proxy_server(open_storage(url, Path()), host="127.0.0.1", port=port)


def one_study(given: Any, kind: str) -> None:
    """Run one study, and print its row."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with (
        tempfile.TemporaryDirectory(prefix="labbook-scale-") as name,
        postgresql.served("studies") as server,
        proxy(f"postgresql://labbook@127.0.0.1:{server.port}/studies", port := free_port()) as served,
    ):
        folder, url = Path(name), f"grpc://127.0.0.1:{port}"
        start = time.monotonic()
        if kind == "Optuna alone":
            optuna.create_study(study_name=STUDY, storage=open_storage(url, folder))
        each = _started(
            bare if kind == "Optuna alone" else parent,
            [(given, url, folder, number) for number in range(given.parents)],
        )
        for process in each:
            process.join()
        assert not any(process.exitcode for process in each), f"a parent failed: {folder}"
        size = f"{served.memory_info().rss / 2**20:.0f} MB"
        row(kind, given, open_storage(url, folder), folder, time.monotonic() - start, size)


def study(given: Any) -> None:
    """Print the table."""
    print(f"\nstudy: {given.parents} parents with {given.workers} workers each that sleep {given.seconds:g} s a trial")
    print("                   parents  workers  at once  trials  seconds  asks/s  lost  doubled  parent grew     proxy")
    for kind in given.kinds.split(","):
        one_parent(given) if kind == "one parent" else one_study(given, kind)


def one_parent(given: Any) -> None:
    """Run one search with all workers, whose study is a file, and print its row."""
    with tempfile.TemporaryDirectory(prefix="labbook-scale-") as name:
        folder, start = Path(name), time.monotonic()
        alone = argparse.Namespace(**vars(given) | {"parents": 1, "workers": given.parents * given.workers})
        _started(parent, [(alone, None, folder, 0)])[0].join()
        storage = open_storage(None, folder / "home-0" / "mlruns" / "studies" / STUDY)
        row("one parent", alone, storage, folder, time.monotonic() - start, "")


def row(kind: str, given: Any, storage: Any, folder: Path, seconds: float, served: str) -> None:
    """Print the row of a study that has ended."""
    trials = optuna.load_study(study_name=STUDY, storage=storage).get_trials(deepcopy=False)
    ended = Counter(int(line) for file in folder.glob("done-*") for line in file.read_text().split())
    complete = {t.number for t in trials if t.state == optuna.trial.TrialState.COMPLETE}
    began = sorted(t.datetime_start.timestamp() for t in trials if t.number in complete)
    most = _most_at_once([t for t in trials if t.number in complete])
    lost = len(complete ^ set(ended)) + sum(t.state == optuna.trial.TrialState.RUNNING for t in trials)
    doubled = sum(count - 1 for count in ended.values())
    rate = (len(began) - 1) / max(began[-1] - began[0], 1e-9)
    used = [json.loads(file.read_text()) for file in folder.glob("memory-*")]
    memory = f"{statistics.median(b - a for a, b in used) / 2**20:.0f} MB" if used else ""
    print(
        f"  {kind:<16}{given.parents:>8}{given.parents * given.workers:>9,}{most:>9}{len(complete):>8,}{seconds:>9.0f}"
        f"{rate:>8.2f}{lost:>6}{doubled:>9}{memory:>13}{served:>10}",
        flush=True,
    )


def _most_at_once(trials: list[Any]) -> int:
    """The largest number of trials that ran at the same time."""
    edges = sorted([(t.datetime_start, 1) for t in trials] + [(t.datetime_complete, -1) for t in trials])
    return max(itertools.accumulate(step for _, step in edges))


# a comparison


def fill(number: int, settings: int) -> None:
    """Put runs on record: one is trained, the others are copies with another learning rate, seed and result."""
    run = train(EXPERIMENT.but({"epochs": 1, "limit": 64}), Launch(mlflow=False, threads=1), "tiny")
    for writer in _started(_fill, [(run.folder, range(at, number, WRITERS), settings) for at in range(WRITERS)]):
        writer.join()
    shutil.rmtree(run.folder)


def _fill(original: Path, numbers: range, settings: int) -> None:
    record = (original / "artifacts" / "record.json").read_text()
    lines = (original / "journal.jsonl").read_text().splitlines()
    params = next(line for line in lines if '"params"' in line)
    of_record = next(line for line in lines if '"record.json"' in line and '"sha256"' in line)
    summary = unsealed((original / "summary.json").read_text())
    event, fact = json.loads(params), json.loads(of_record)
    for at in numbers:
        setting, seed = at % settings, at // settings
        folder = paths.runs() / f"tiny-2025{at // 86400 + 1:02d}01-{at % 86400:06d}-{at % 65536:04x}"
        (folder / "artifacts").mkdir(parents=True)
        own = record.replace(original.name, folder.name)
        event["values"] |= {"optimizer.lr": str(0.001 * (setting + 1)), "seed": str(seed)}
        fact["sha256"] = hashlib.sha256(own.encode()).hexdigest()
        changed = {params: _without_crc(event), of_record: _without_crc(fact)}
        (folder / "journal.jsonl").write_text("".join(changed.get(line, line) + "\n" for line in lines))
        (folder / "artifacts" / "record.json").write_text(own)
        accuracy = 0.8 + 0.0005 * setting + 0.01 * math.sin(at * 12.9898)
        metrics = summary["metrics"] | {"test/accuracy": accuracy, "val/accuracy": accuracy}
        (folder / "summary.json").write_text(sealed({**summary, "metrics": metrics, "whole": True}))


def _without_crc(event: dict[str, Any]) -> str:
    """A line of a journal as older versions wrote it: its checksum would be that of another run."""
    return json.dumps({name: value for name, value in event.items() if name != "crc"}, separators=(",", ":"))


def compare(given: Any) -> None:
    """Print the table of the comparison."""
    print(f"\ncompare: labbook compare tiny --unit seeds, {given.settings} settings")
    print("      runs   seconds   CPU s   ms of CPU a run    peak MB")
    for number in map(int, given.runs.split(",")):
        with tempfile.TemporaryDirectory(prefix="labbook-scale-") as home:
            os.environ["LABBOOK_HOME"] = home
            fill(number, given.settings)
            seconds, cpu, peak = measured("compare", "tiny", "--unit", "seeds", "--json")
            print(f"{number:>10,}{seconds:>10.1f}{cpu:>8.1f}{1e3 * cpu / number:>18.2f}{peak:>11.0f}", flush=True)


# a mirror


def invocation(folder: Path, number: int, runs: int, steps: int) -> None:
    """Write the journals of some runs side by side, as a search does, and mirror them by one process."""
    logs = [Journal(paths.runs() / f"scale-20260101-{number:06d}-{at:04x}") for at in range(runs)]
    mirror = Mirror()
    for log in logs:
        log.write("run", id=log.folder.name, experiment="tracking", name="scale", parent=None, pid=os.getpid())
        mirror.follow(log.folder)
    start = time.monotonic()
    for step in range(steps):
        for log in logs:
            log.metrics(step, {"written": time.time(), "loss": 1 / (step + 1)})
        time.sleep(max(0.0, start + (step + 1) / 20 - time.monotonic()))
    for log in logs:
        log.close("FINISHED")
    ended = time.monotonic()
    sent = mirror.finish(600)
    (folder / f"end-{number}").write_text(json.dumps([ended - start, time.monotonic() - ended, sent]))


def mirror(given: Any) -> None:
    """Print the table of the mirror."""
    each = int(given.runs) // given.invocations
    print(f"\nmirror: {given.invocations} invocations with {each} runs each, {given.steps} steps, 2 metrics a step")
    with tempfile.TemporaryDirectory(prefix="labbook-scale-") as name:
        folder = Path(name)
        os.environ["LABBOOK_HOME"] = name
        server = Server(folder)
        os.environ["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{server.port}"
        try:
            writers = _started(invocation, [(folder, n, each, given.steps) for n in range(given.invocations)])
            lags = _lags(writers)
            ends = [json.loads(file.read_text()) for file in folder.glob("end-*")]
            lost, found = _missing()
        finally:
            server.end()
    writing, after, sent = zip(*ends, strict=True)
    print("      runs    points    lost   writing s   delay while writing: median, max   after the end: max")
    delays = f"{statistics.median(lags):.1f} s, {max(lags):.1f} s" if lags else "not seen"
    print(f"{given.runs:>10}{found:>10,}{lost:>8}{max(writing):>12.1f}{delays:>37}{max(after):>26.1f} s")
    assert all(sent), "a mirror gave up"


def _lags(writers: list[Any]) -> list[float]:
    """While runs are written: how old the latest entry is that MLflow has of one of them."""
    lags = []
    while any(writer.is_alive() for writer in writers):
        time.sleep(2)
        for folder in sorted(paths.runs().glob("scale-*"))[:: max(1, len(writers))][:4]:
            with contextlib.suppress(ValueError, KeyError):
                if status(folder) == "RUNNING":
                    lags.append(time.time() - run_of(folder.name).data.metrics["written"])
    return lags


def _missing() -> tuple[int, int]:
    """(points of journals that MLflow lacks or has otherwise, all points)."""
    from mlflow import MlflowClient

    client, lost, found = MlflowClient(), 0, 0
    for folder in paths.runs().glob("scale-*"):
        run = run_of(folder.name).info.run_id
        for name, expected in points(folder).items():
            has = Counter((p.step, p.timestamp, repr(p.value)) for p in client.get_metric_history(run, name))
            lost += sum((Counter(expected) - has).values()) + sum((has - Counter(expected)).values())
            found += len(expected)
    return lost, found


def main() -> None:
    """Read the words, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", choices=["all", "study", "compare", "mirror"], default="all")
    parser.add_argument("--parents", type=int, default=20)
    parser.add_argument("--workers", type=int, default=50, help="of each parent")
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--seconds", type=float, default=30.0, help="that a trial sleeps")
    parser.add_argument("--timeout", default=None, help="after which no trial of a search is started, as 300s")
    parser.add_argument("--kinds", default="Optuna alone,labbook search,one parent")
    parser.add_argument("--runs", default=None, help="compare: numbers of runs; mirror: their number")
    parser.add_argument("--settings", type=int, default=50)
    parser.add_argument("--invocations", type=int, default=8)
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f} before, optuna {optuna.__version__}")
    tables = [study, compare, mirror] if given.table == "all" else [globals()[given.table]]
    asked = given.runs
    for table in tables:
        given.runs = asked or {compare: "1000,10000,100000", mirror: "64"}.get(table)
        table(given)


if __name__ == "__main__":
    main()
