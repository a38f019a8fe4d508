"""The workers of a search, forked by a process that has imported what they need: a started one imports for seconds.

The server is multiprocessing's own, itself a fork of the parent of tests/support/forge.py, and has no threads. Its
workers are as separate as started ones: no lock, file or memory is shared with the search, and their ends are watched
through the same pipes. Only their parent is another process: `children` of tests/support/studies.py finds them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.support import pictures


def title(search: int) -> str:
    """The name of the worker processes of the search with this process id, as ps shows it."""
    return f"trials {search}"


def serve() -> str:
    """Fork the server from this process, which has no threads; its address. It ends with this process and its forks."""
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
            forkserver.main(listener.detach(), alive, ())
        finally:
            os._exit(0)
    os.close(alive)
    listener.close()
    _use(address, mine)
    return address


def use(address: str) -> None:
    """Let `Context` start its workers there."""
    _use(address, os.pipe()[1])


def _use(address: str, alive: int) -> None:
    server = _Server()
    server._forkserver_address = address
    server._forkserver_alive_fd = alive
    forkserver.connect_to_new_process = server.connect_to_new_process


class _Server(forkserver.ForkServer):
    """One that is started already."""

    def ensure_running(self) -> None:
        resource_tracker.ensure_running()


class Context:
    """In place of the context that starts each worker anew."""

    def __init__(self, method: str) -> None:
        assert method == "spawn"
        self.server = multiprocessing.get_context("forkserver")
        self.Pipe = self.server.Pipe

    def Process(self, target: Callable[..., None], args: tuple[Any, ...], **more: Any) -> BaseProcess:
        given = (dict(os.environ), os.getpid(), target, args)
        return self.server.Process(target=_become, args=given, **more)


class Multiprocessing:
    """In place of the module, where only its contexts are used."""

    get_context = Context


def _become(environment: dict[str, str], search: int, target: Callable[..., None], args: tuple[Any, ...]) -> None:
    """What a started process would have of the search: its environment and its output."""
    os.environ.clear()
    os.environ.update(environment)
    Path("/proc/self/comm").write_text(title(search))
    for number in (1, 2):
        with contextlib.suppress(OSError):
            os.dup2(os.open(f"/proc/{search}/fd/{number}", os.O_WRONLY | os.O_APPEND), number)
    pictures.as_declared()
    target(*args)
