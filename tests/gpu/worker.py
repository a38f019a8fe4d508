"""The process in which the entries of the GPU check run, and how it is asked for them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import platform
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core.common.memory import prefer_expandable

_CONTEXT = multiprocessing.get_context("spawn")  # CUDA does not survive a fork


@dataclass(frozen=True)
class Entries:
    """actions: entry -> function of a Bench.  limits: entry -> seconds that it may take."""

    actions: Mapping[str, Callable[[Any], Any]]
    limits: Mapping[str, int]

    @classmethod
    def all(cls) -> Self:
        from tests.gpu.checks import checks
        from tests.gpu.ratios import ratios

        found = [*checks(), *ratios()]
        names = [action.__name__ for action, _ in found]
        return cls(
            dict(zip(names, (action for action, _ in found), strict=True)),
            dict(zip(names, (limit for _, limit in found), strict=True)),
        )


class Worker:
    """Runs entries in another process, which writes what it prints to a log, and starts another one after a failure."""

    def __init__(self, device: str, small: bool):
        self.device, self.small = device, small
        self.log = Path(tempfile.mkdtemp(prefix="labbook-gpu-")) / "log.txt"
        self._process: Any = None
        self._ours: Connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._ours.close()  # after which it ends by itself
            self._process.join(5)
        self._stop()
        shutil.rmtree(self.log.parent, ignore_errors=True)

    def ask(self, name: str, seconds: float) -> dict[str, Any]:
        """{"status": passed, failed or skipped; "seen": what the entry returns, reason or traceback; "seconds"}."""
        if self._process is None:
            self._start()
            self._ours.recv()  # the imports are not part of an entry
        started = time.monotonic()
        self._ours.send(name)
        try:
            answered = self._ours.poll(seconds)
            status, seen = self._ours.recv() if answered else ("failed", f"it took more than {seconds:.0f} s")
        except EOFError:
            status, seen = "failed", "the process died"
        if status == "failed":
            seen = f"{self._tail()}\n{seen}"
            self._stop()
        return {"status": status, "seen": seen, "seconds": round(time.monotonic() - started, 1)}

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-1_000:] if self.log.exists() else ""

    def _start(self) -> None:
        self._ours, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(theirs, self.device, self.small, str(self.log)))
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # with everything that the entry has started
            self._process.join()
            self._ours.close()
        self._process = None


def _work(asked: Connection, device: str, small: bool, log: str) -> None:
    """The loop of the process: run each entry that is asked for, in a home of its own."""
    os.setsid()
    # torch reads both once in a process, and the first entry may not be the one that needs them
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    prefer_expandable()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from tests.gpu.bench import Bench, Skip

    actions = {**Entries.all().actions, "machine": machine}
    asked.send("ready")
    while True:
        try:
            name = asked.recv()
        except EOFError:
            return
        home = Path(tempfile.mkdtemp(prefix=f"labbook-gpu-{name}-"))
        os.environ["LABBOOK_HOME"] = str(home)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        try:
            answer = "passed", actions[name](Bench(device, small, home))
        except Skip as reason:
            answer = "skipped", str(reason)
        except BaseException:
            answer = "failed", traceback.format_exc()[-3_000:]
        shutil.rmtree(home, ignore_errors=True)
        asked.send(answer)


def machine(bench: Any) -> dict[str, str]:
    """What the entries run on."""
    import torch

    from core.record import provenance

    found = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "torch": torch.__version__, "python": platform.python_version()}
    if bench.on_gpu:
        import pynvml

        pynvml.nvmlInit()
        found |= {"driver": pynvml.nvmlSystemGetDriverVersion(), "CUDA": torch.version.cuda or ""}
    names = ("hardware.gpu", "hardware.gpu_memory_gb", "hardware.cpu", "hardware.cores")
    facts = provenance.hardware(torch.device(bench.device))
    return {name.removeprefix("hardware."): facts[name] for name in names if name in facts} | found
