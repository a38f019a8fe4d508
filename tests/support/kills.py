"""Runs of tiny killed at random moments and finished by `resume`, held against the same runs left alone.

Everything is a function of a seed: what is trained, how it is launched, and when it dies.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.record import journal
from core.record.run import RECORD, WEIGHTS
from core.record.summary import SUMMARY
from core.runs.trained import Run

PROGRAM = "experiments.tiny"
DECLARATIONS = 20  # different ones; many kills share an undisturbed run
OF_TIME_OR_SIZE = ("images_per_second", "peak_memory_mb", "checkpoint_seconds")
PATIENCE = 300.0  # s for one process, on a machine that others use too


class Process(Protocol):
    """As tests.support.forge has it."""

    def kill(self, number: int = signal.SIGKILL) -> None: ...
    def wait(self, timeout: float = PATIENCE) -> int: ...
    @property
    def ended(self) -> bool: ...
    @property
    def text(self) -> str: ...


class Starter(Protocol):
    """Starts `python -m WORDS`, with `env` added to the environment."""

    def __call__(self, *words: str, env: dict[str, str]) -> Process: ...


class Differs(AssertionError):
    """What a run became is not what it becomes undisturbed, or it cannot be finished."""


@dataclass(frozen=True)
class Setup:
    """Words of the command line: those that decide what comes out, and those that must not."""

    declared: tuple[str, ...]
    launched: tuple[str, ...] = ("--workers", "0")

    @property
    def words(self) -> tuple[str, ...]:
        return (PROGRAM, *self.declared, *self.launched, "--mlflow", "false", "--threads", "1")


@dataclass(frozen=True)
class Moment:
    """When to kill: once `step` is in the journal, `share` of the undisturbed duration after the start, or `after`
    seconds after a file of this `pattern` is there."""

    step: int | None = None
    share: float | None = None
    pattern: str | None = None
    after: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What has to be equal. points: metric name -> SHA-256 of its (step, value)s, bit for bit."""

    weights: str
    points: dict[str, str]
    artifacts: tuple[str, ...]
    steps: int
    seconds: float  # that the undisturbed run took, the one thing that need not be equal

    def differences(self, other: Outcome) -> list[str]:
        names = sorted(self.points | other.points)
        differing = [f"points of {name}" for name in names if self.points.get(name) != other.points.get(name)]
        differing += ["weights"] if self.weights != other.weights else []
        differing += [f"artifact {name}" for name in sorted(set(self.artifacts) ^ set(other.artifacts))]
        return differing


def declaration(number: int) -> tuple[str, ...]:
    """Of the space that a research run lives in: augmentation, dropout, precision, EMA, accumulation, stopping."""
    luck = random.Random(f"declaration {number}")
    image = '{"class": "Albumentation", "name": "ShiftScaleRotate", "arguments": {"p": 0.9}}'
    crop, mixup = '{"class": "RandomCrop", "padding": 1}', '{"class": "Mixup"}'
    steps = luck.choice([[], [crop], [crop, mixup], [image], [image, crop, mixup], [image, mixup]])
    words = ["--seed", str(number), "--epochs", str(luck.choice([2, 3, 4])), "--limit", str(luck.choice([300, 500]))]
    words += ["--batch_size", luck.choice(["32", "64"])]
    words += ["--augment", f"[{', '.join(steps)}]" if steps else "none"]
    words += ["--precision", luck.choice(["fp32", "bf16"])]
    words += luck.choice([[], ["--model.dropout", "0.3"]])
    words += luck.choice([[], ["--ema.decay", "0.9"]])
    words += luck.choice([[], ["--grad_accum_steps", "2"]])
    words += luck.choice([["--stopping", "none"], ["--stopping.patience", "1", "--stopping.min_delta", "0.3"]])
    words += luck.choice([[], ["--optimizer", "AdamW", "--optimizer.lr", "0.002"]])
    return tuple(words)


def launch(luck: random.Random) -> tuple[str, ...]:
    """What must not change the outcome."""
    every = luck.choice([*map(str, range(1, 16)), "1s", "1m"])
    return ("--workers", str(luck.choice([0, 0, 1, 2])), "--checkpoint_every", every)


FILES = (
    f"artifacts/{RECORD}",
    "artifacts/packages.txt",
    "checkpoints/*.part",
    "checkpoints/*.checkpoint",
    f"artifacts/{WEIGHTS}.part",
    f"artifacts/{WEIGHTS}",
    "artifacts/confusion_matrix.png",
    "artifacts/learning_curves.png",
    "journal.jsonl",
)


def moment(luck: random.Random, steps: int) -> Moment:
    kind = luck.random()
    if kind < 0.4:
        return Moment(step=luck.randint(1, steps))
    if kind < 0.75:
        return Moment(share=luck.uniform(0, 1.1))
    return Moment(pattern=luck.choice(FILES), after=luck.choice([0, 0, 0.002, 0.02, 0.1]))


def moments(luck: random.Random, count: int, steps: int) -> Iterator[Moment]:
    """One random moment, or several that come one after the other."""
    for number in range(1, count + 1):
        if count == 1:
            yield moment(luck, steps)
        elif luck.random() < 0.3:
            yield Moment(share=luck.uniform(0, 0.4))
        else:
            yield Moment(step=max(1, steps * number // (count + 1)), after=luck.choice([0, 0, 0.05, 0.2]))


def undisturbed(start: Starter, declared: tuple[str, ...], home: Path) -> Outcome:
    began = time.monotonic()
    process = start(*Setup(declared).words, env={"LABBOOK_HOME": str(home)})
    status = _wait(process)
    if status:
        raise Differs(f"undisturbed, it ended with {status}:\n{process.text}")
    return outcome(home, time.monotonic() - began)


def outcome(home: Path, seconds: float = 0.0) -> Outcome:
    """Of the one finished run in a home. Raises Differs where there is not exactly one."""
    finished = [run for run in runs(home) if run.status == "FINISHED"]
    if len(finished) != 1:
        raise Differs(f"{len(finished)} finished runs: {[(run.id, run.status) for run in runs(home)]}")
    return outcome_of(finished[0], seconds)


def outcome_of(run: Run, seconds: float = 0.0) -> Outcome:
    """Of a finished run. Raises Differs where it lacks its summary."""
    history = {name: points for name, points in run.history.items() if name not in OF_TIME_OR_SIZE}
    if not (run.folder / SUMMARY).exists():
        raise Differs(f"{run.id} is FINISHED without its {SUMMARY}")
    return Outcome(
        hashlib.sha256((run.folder / "artifacts" / WEIGHTS).read_bytes()).hexdigest(),
        {name: hashlib.sha256(repr(sorted(points.items())).encode()).hexdigest() for name, points in history.items()},
        # the code's own state may change while a long proof goes on
        tuple(sorted(path for path in artifacts(run) if not path.startswith("code/"))),
        max(history.get("step/loss", {0: 0.0})),
        seconds,
    )


def artifacts(run: Run) -> set[str]:
    """Paths of what the journal says is complete."""
    return {event["path"] for _, event in journal.read(run.folder) if event["event"] == "artifact"}


def runs(home: Path) -> list[Run]:
    """Those that have come as far as a record: what died before is no run yet, and is started again."""
    return [Run(path.parent.parent) for path in sorted((home / "mlruns" / "runs").glob(f"*/artifacts/{RECORD}"))]


def killed(start: Starter, setup: Setup, home: Path, luck: random.Random, count: int, expected: Outcome) -> list[str]:
    """finish_killed with `count` random kills, tried anew where a moment came after the end. Raises Differs."""
    for attempt in range(20):
        stops = finish_killed(start, setup, home / str(attempt), moments(luck, count, expected.steps), expected)
        if len(stops) == count:
            return stops
    raise Differs(f"{setup.words} always ended before it was killed")


def finish_killed(start: Starter, setup: Setup, home: Path, moments: Iterator[Moment], expected: Outcome) -> list[str]:
    """Train, be killed at each moment, go on each time, and end as `expected`. Tells of each kill where it came.

    A moment that the process did not live to see kills nothing and tells of nothing. Raises Differs.
    """
    stops: list[str] = []
    process = _go_on(start, setup, home)
    for each in moments:
        if process is None:
            break
        _wait_for(each, process, home, expected.seconds)
        if not process.ended:
            process.kill()
        status = _wait(process)
        if status == -signal.SIGKILL:
            stops.append(_where(home))
        elif status:
            raise Differs(f"after {stops}, it ended with {status}:\n{process.text}")
        process = _go_on(start, setup, home)
    while process is not None:
        status = _wait(process)
        if status:
            raise Differs(f"after {stops}, it ended with {status}:\n{process.text}")
        process = _go_on(start, setup, home)
    differences = outcome(home).differences(expected)
    if differences:
        raise Differs(f"after {stops}: {', '.join(differences)}")
    return stops


def _go_on(start: Starter, setup: Setup, home: Path) -> Process | None:
    """The process that a person would start next; None once the run has finished."""
    env = {"LABBOOK_HOME": str(home)}
    if any(run.status == "FINISHED" for run in runs(home)):
        return None
    return start(PROGRAM, "resume", env=env) if runs(home) else start(*setup.words, env=env)


def _wait(process: Process) -> int:
    try:
        return process.wait(PATIENCE)
    except (TimeoutError, subprocess.TimeoutExpired):
        raise Differs(f"it hung:\n{process.text}") from None


def _wait_for(moment: Moment, process: Process, home: Path, seconds: float) -> None:
    """Until the moment has come, or the process has ended without living to see it."""
    base = home / "mlruns" / "runs"
    before = _matching(base, moment.pattern)
    began = looked = time.monotonic()
    end = began + (moment.share * seconds if moment.share is not None else PATIENCE)
    while time.monotonic() < end:
        if moment.step is not None and _last_step(base) >= moment.step:
            break
        if moment.pattern and _matching(base, moment.pattern) - before:
            break
        if time.monotonic() - looked > 0.3:
            looked = time.monotonic()
            if process.ended:
                break
        time.sleep(0.0005 if moment.pattern else 0.004)
    time.sleep(moment.after)


def _matching(base: Path, pattern: str | None) -> set[tuple[str, int]]:
    """(path, time of change) of the files of all runs."""
    found = set()
    for path in base.glob(f"*/{pattern}") if pattern else ():
        with contextlib.suppress(OSError):
            found.add((str(path), path.stat().st_mtime_ns))
    return found


def _last_step(base: Path) -> int:
    """The last step that a journal tells of; read as bytes, for it is looked at all the time."""
    logs = [path.read_bytes() for path in base.glob(f"*/{journal.FILE}")]
    return max((int(step) for log in logs for step in re.findall(rb'"step":(\d+),"values":{"step/', log)), default=0)


def _where(home: Path) -> str:
    """How far the run had come."""
    base = home / "mlruns" / "runs"
    if not runs(home):
        return "no run yet"
    return f"step {_last_step(base)}" + (", tested" if "test/loss" in runs(home)[-1].history else "")
