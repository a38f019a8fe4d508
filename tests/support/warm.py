"""Processes that labbook starts, forked by one that has imported what they need: a started one imports for seconds.

These are the workers of searches, and the mirrors. Each kind has a server, which is multiprocessing's own and has no
threads. Both are forks of the parent of tests/support/forge.py, the one for mirrors from before it imports torch. What
they fork is as separate as what is started: it shares no lock, file or memory, and its end is watched through the same
pipes. Only its parent is another process: `children` of tests/support/studies.py finds the workers of a search.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing import process as multiprocess
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MIRROR = ("core.tracking.follower", "core.tracking.mlflow_store", "mlflow.store.tracking.sqlalchemy_store", "psutil")


def title(search: int) -> str:
    """The name of the worker processes of the search with this process id, as ps shows it."""
    return f"trials {search}"


def serve(modules: Sequence[str] = ()) -> str:
    """Fork a server from this process, which has no threads; its address. It ends with this process and its forks.

    modules: what it imports when it is first asked.
    """
    address = f"{tempfile.mkdtemp(prefix='labbook-warm-')}/server"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    alive, mine = os.pipe()
    if os.fork() == 0:
        os.close(mine)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        try:
            select.select([listener, alive], [], [])
            for module in modules:
                importlib.import_module(module)
            gc.freeze()
            forkserver.main(listener.detach(), alive, ())
        finally:
            os._exit(0)
    os.close(alive)
    listener.close()
    return address


class Server(forkserver.ForkServer):
    """One that is started already."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._forkserver_address = address
        self._forkserver_alive_fd = os.pipe()[1]

    def ensure_running(self) -> None:
        resource_tracker.ensure_running()

    def process(self, target: Callable[..., None], *args: Any, **more: Any) -> multiprocess.BaseProcess:
        """A process of this server, to be started before one of another."""
        forkserver.connect_to_new_process = self.connect_to_new_process
        return multiprocessing.get_context("forkserver").Process(target=target, args=args, **more)


class Workers:
    """In place of multiprocessing in core/search/pool.py."""

    def __init__(self, address: str) -> None:
        self.server = Server(address)
        self.Pipe = multiprocessing.Pipe

    def get_context(self, method: str) -> Workers:
        assert method == "spawn"
        return self

    def Process(self, target: Callable[..., None], args: tuple[Any, ...], **more: Any) -> multiprocess.BaseProcess:
        return self.server.process(_work, dict(os.environ), os.getpid(), target, args, **more)


def _work(environment: dict[str, str], search: int, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    """What a started worker would have of the search: its environment and its output."""
    from tests.support import pictures

    os.environ.clear()
    os.environ.update(environment)
    Path("/proc/self/comm").write_text(title(search))
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.dup2(os.open(f"/proc/{search}/fd/{number}", os.O_WRONLY | os.O_APPEND), number)
    pictures.as_declared()
    target(*args)


class Mirrors:
    """In place of subprocess in core/tracking/api.py."""

    PIPE = subprocess.PIPE
    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self, address: str) -> None:
        self.server = Server(address)

    def Popen(self, words: Sequence[str], *, stdout: Any, cwd: Path, env: dict[str, str], **_: Any) -> Mirror:
        return Mirror(self.server, words, stdout.name, cwd, env)


class Mirror:
    """As subprocess.Popen has it."""

    def __init__(self, server: Server, words: Sequence[str], log: str, cwd: Path, env: dict[str, str]) -> None:
        read, write = os.pipe()
        self.stdin = os.fdopen(write, "wb", buffering=0)
        with Connection(read, writable=False) as end:
            self.process = server.process(_mirror, end, list(words[2:]), log, str(cwd), env)
            self.process.start()
        multiprocess._children.discard(self.process)  # type: ignore[attr-defined] it is not waited for at the exit
        self.pid = self.process.pid

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("mirror", timeout or 0.0)
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def _mirror(given: Connection, words: Sequence[str], log: str, cwd: str, environment: dict[str, str]) -> None:
    """Become the program that core/tracking/api.py starts."""
    os.setsid()
    os.dup2(given.fileno(), 0)
    given.close()
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    module, *sys.argv = words
    sys.argv.insert(0, module)
    trainer = int(sys.argv[2])
    os.getppid = lambda: trainer if _lives(trainer) else 1
    signal.signal(signal.SIGINT, signal.default_int_handler)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
