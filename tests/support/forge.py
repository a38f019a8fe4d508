"""Whole programs as real processes, without paying for imports each time.

One parent imports torch and labbook once and then forks a child for each command line; a child is a process of its
own, with its own signals, exit status and standard streams; its pictures are blank where those of the test are. The
workers of a search and the mirrors are forked, too (tests/support/warm.py). That parent is
`python -m tests.support.forge`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import pictures, warm

# what most command lines import: more than half of the time of a short training
COMMON = (
    "torch",
    "torchvision",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "jinja2",
    "optuna",
    "rich.progress",
    "pyarrow.parquet",
    "sklearn.datasets",
    "core.cli.outcome",
    "core.cli.resume",
    "core.cli.train",
    "core.report.write",
    "data",
    "experiments.tiny",
)


@dataclass
class Process:
    """A running command line."""

    forge: Forge
    pid: int
    output: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 120) -> int:
        """Its exit status; minus the signal that ended it, as subprocess has it."""
        return self.forge.wait(self.pid, timeout)

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self.forge.has_ended(self.pid)

    @property
    def text(self) -> str:
        """Everything it has printed, standard output and error together."""
        return self.output.read_text(errors="replace")


class Forge:
    """The parent of `Process`es, itself a child of the test session."""

    def __init__(self) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.folder = tempfile.TemporaryDirectory()
        self.ended: dict[int, int] = {}
        answer = self._answer("ready")
        self.workers, self.mirrors = str(answer["workers"]), str(answer["mirrors"])  # addresses of warm.py

    def start(self, *words: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Process:
        """Start `python -m WORDS...`; env is added to this process's environment."""
        output = Path(self.folder.name) / f"{time.monotonic_ns()}.txt"
        request = {"words": words, "env": {**os.environ, **(env or {})}, "cwd": str(cwd or Path.cwd())}
        output.touch()
        self._send(request | {"output": str(output)})
        return Process(self, self._answer("started")["pid"], output)

    def run(self, *words: str, env: dict[str, str] | None = None, timeout: float = 120) -> tuple[int, str]:
        """(exit status, output) of a command line."""
        process = self.start(*words, env=env)
        return process.wait(timeout), process.text

    def wait(self, pid: int, timeout: float) -> int:
        end = time.monotonic() + timeout
        while not self.has_ended(pid):
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
                raise TimeoutError(f"process {pid} went on for more than {timeout} s")
            time.sleep(0.02)
        return self.ended[pid]

    def has_ended(self, pid: int) -> bool:
        if pid not in self.ended:
            self._send({"reap": True})
            self.ended |= {int(key): value for key, value in self._answer("reaped")["ended"].items()}
        return pid in self.ended

    def close(self) -> None:
        self.parent.stdin.close()  # type: ignore[union-attr]
        self.parent.wait(60)
        self.folder.cleanup()

    def _send(self, request: dict[str, Any]) -> None:
        self.parent.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
        self.parent.stdin.flush()  # type: ignore[union-attr]

    def _answer(self, kind: str) -> dict[str, Any]:
        answer = json.loads(self.parent.stdout.readline())  # type: ignore[union-attr]
        assert answer["kind"] == kind, answer
        return answer


class Cold:
    """Command lines as a person starts them: each pays for its imports, so that a kill can land there too."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()

    def start(self, *words: str, env: dict[str, str] | None = None) -> ColdProcess:
        output = Path(self.folder.name) / f"{time.monotonic_ns()}.txt"
        with output.open("wb") as stream:
            command = [sys.executable, "-m", *words]
            environment = {**os.environ, **(env or {})}
            return ColdProcess(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment),
                output,
            )

    def close(self) -> None:
        self.folder.cleanup()


@dataclass
class ColdProcess:
    """As Process, a child of this process."""

    child: subprocess.Popen[bytes]
    output: Path

    def kill(self, number: int = signal.SIGKILL) -> None:
        self.child.send_signal(number)

    def wait(self, timeout: float = 120) -> int:
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise

    @property
    def ended(self) -> bool:
        return self.child.poll() is not None

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")


def _child(request: dict[str, Any]) -> None:
    """Become the program: never returns."""
    import runpy

    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    pictures.as_declared()
    module, *arguments = request["words"]
    sys.argv = [module, *arguments]
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    mirrors = warm.serve(warm.MIRROR)  # before torch, which they do without
    for module in COMMON:
        importlib.import_module(module)
    from core.search import pool
    from core.tracking import api

    gc.freeze()  # what was imported is never garbage: no child looks for it there, which would also copy the memory
    workers = warm.serve()
    pool.multiprocessing = warm.Workers(workers)  # type: ignore[assignment]
    api.subprocess = warm.Mirrors(mirrors)  # type: ignore[assignment]
    answers = os.fdopen(os.dup(1), "w")

    def answer(kind: str, **fields: Any) -> None:
        answers.write(json.dumps({"kind": kind} | fields) + "\n")
        answers.flush()

    answer("ready", workers=workers, mirrors=mirrors)
    running: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "words" in request:
            pid = os.fork()
            if pid == 0:
                _child(request)
            running.add(pid)
            answer("started", pid=pid)
        else:
            ended = {}
            for pid in list(running):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    running.discard(pid)
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer("reaped", ended=ended)


if __name__ == "__main__":
    main()
