"""--processes N: start the processes of one run on this machine, pass signals on to them, and wait for their end.

torchrun does the same and more: it restarts them. On Ctrl-C, however, its agent signals whole process groups, with
loader workers and mirrors, kills what has not ended after 30 seconds, prints a traceback and exits with status 1.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from core.common import paths
from core.common.errors import UserError
from core.common.ranks import PROCESSES, started_together
from core.common.signals import PARENT
from core.common.terminal import complain
from core.options import positive

GRACE = 60.0  # s after the failure of a process until the others are told to end, and again until they are killed


def taken(words: Sequence[str]) -> tuple[list[str], int | None]:
    """Returns (words without --processes N, N or None). Raises UserError."""
    rest = list(words)
    for at, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if name == "--processes":
            given = value if equals else next(iter(rest[at + 1 : at + 2]), None)
            count, wrong = positive("processes", given)
            wrong = wrong or refusals(count)
            if wrong:
                raise UserError(wrong)
            return rest[:at] + rest[at + (1 if equals else 2) :], count
    return rest, None


def refusals(count: int) -> list[str]:
    """Why this process cannot start `count` processes; empty if it can, or is one of them."""
    if "RANK" in os.environ and not started_together():
        return [f"--processes {count}: another program (torchrun, srun) started this process; leave out one of the two"]
    if "LABBOOK_RENDEZVOUS" in os.environ and not started_together():
        return [f"--processes {count}: its processes meet by themselves; unset LABBOOK_RENDEZVOUS"]
    return []


def to_start(count: int | None) -> bool:
    """Whether this process has to start `count` others, and is not one of them."""
    return (count or 1) > 1 and not started_together()


def run_together(count: int, words: Sequence[str]) -> int:
    """Run `python -m WORDS` in `count` processes with the environment variables of torchrun. Returns the exit status
    that a single process would have.

    The first one has the standard streams of this process. What others print to standard error follows the name of the
    process. Each signal is passed on to all of them once, because they are not in the terminal's foreground.
    """
    import torch.distributed as dist

    # hosted here, as in torchrun: the kernel chooses the port, and it stays until the last process has ended
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    watched, held = os.pipe()  # the processes see its end if this one is killed
    shared = {
        **os.environ,
        "PYTHONPATH": paths.python_path(),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        PROCESSES: str(count),
        PARENT: str(watched),
    }
    with _received() as signals:
        started: list[subprocess.Popen[str]] = []
        try:
            for rank in range(count):
                started.append(_started(words, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, rank, watched))
            readers = [_named(rank, process) for rank, process in enumerate(started) if rank]
            statuses = _ended(started, signals)
        except BaseException:
            for process in started:
                process.kill()
            raise
        finally:
            os.close(watched)
            os.close(held)
    for reader in readers:
        reader.join(5.0)
    own = [status if status >= 0 else 128 - status for status in statuses]
    return own[0] or max(own)


def _started(words: Sequence[str], environment: dict[str, str], rank: int, watched: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE if rank else None,
        text=True,
        errors="replace",
        pass_fds=(watched,),
        start_new_session=True,
    )


def _named(rank: int, process: subprocess.Popen[str]) -> threading.Thread:
    """A thread that prints what a process writes to standard error, each line with its name."""

    def read() -> None:
        name = f"process {rank}: "
        for line in process.stderr or ():
            if text := line.rstrip():
                complain(name + text.removeprefix(name))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def _ended(started: Sequence[subprocess.Popen[str]], signals: list[int]) -> list[int]:
    """Wait until all processes have ended, passing on what arrives in `signals`. Returns their statuses."""
    failed, signaled, told = None, False, False
    while any(process.poll() is None for process in started):
        while signals:
            signaled = True
            _send(started, signals.pop(0))
        if failed is None and any(process.returncode for process in started):
            failed = time.monotonic()  # the others notice by themselves, unless they hang in a library
        if failed is not None and not signaled and time.monotonic() - failed > GRACE:
            _send(started, signal.SIGKILL if told else signal.SIGTERM)
            failed, told = time.monotonic(), True
        time.sleep(0.05)
    return [process.returncode for process in started]


def _send(started: Sequence[subprocess.Popen[str]], number: int) -> None:
    for process in started:
        process.send_signal(number)  # nothing, if it has ended


@contextmanager
def _received() -> Iterator[list[int]]:
    """Collects the numbers of SIGINT and SIGTERM instead of ending this process."""
    numbers: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        numbers.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield numbers
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
