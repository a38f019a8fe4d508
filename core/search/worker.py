"""The worker process, which trains trials one after another: it receives Tasks and sends messages about them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from core.common.errors import UserError


def work(connection: Connection) -> None:
    """Train trials until the other end of the connection is closed.

    Messages: ("started",) on receiving a task, ("run", number, folder), ("epoch", number, epochs, value) with a reply
    whether to continue, or PAUSE, ("score", number, scores) with a reply whether to keep the weights, ("ended",
    Outcome), ("stopped", number, reason).
    """
    os.setsid()  # Ctrl-C in the terminal goes to the parent, which then stops its workers
    _end_with_parent()
    from core.common.terminal import mute

    mute()
    from core.search.trial import Task  # takes seconds, because it imports torch

    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        assert isinstance(task, Task)
        connection.send(("started",))
        message = _done(task, connection)
        try:
            connection.send(message)
        except OSError:
            return
        _free_gpu()


def _done(task: Any, connection: Connection) -> tuple[Any, ...]:
    from core.common.errors import Interrupted, Unfinished
    from core.runs.trained import load
    from core.search.trial import Outcome, run_trial

    def ask(*message: Any) -> bool | str:
        try:
            connection.send(message)
            answer: bool | str = connection.recv()
            return answer
        except (EOFError, OSError):  # the parent is dead: the next search resumes this run
            raise Interrupted(signal.SIGTERM, "the search has ended") from None

    try:
        return "ended", run_trial(
            task,
            load(task.run) if task.run else None,
            lambda run: connection.send(("run", task.number, str(run.folder))),
            lambda epochs, value: ask("epoch", task.number, epochs, value),
            lambda scores: bool(ask("score", task.number, scores)),
        )
    except (Interrupted, Unfinished) as stopped:
        return "stopped", task.number, str(stopped)
    except UserError as mistakes:
        return "ended", Outcome(task.number, error="; ".join(mistakes.lines))
    except Exception as error:
        return "ended", Outcome(task.number, error=f"{type(error).__name__}: {error}")


def _free_gpu() -> None:
    """Free the GPU memory that reference cycles of the last trial still hold; a collection takes 0.2 s."""
    import torch

    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _end_with_parent() -> None:
    """Save and stop when the parent process dies."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
