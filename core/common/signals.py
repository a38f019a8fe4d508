"""Handle SIGTERM and Ctrl-C: finish the step, save, and exit. A second signal ends the process immediately."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from core.common.errors import Interrupted

PARENT = "LABBOOK_PARENT"  # file descriptor of a pipe that is closed when the parent ends


def end_with_parent() -> None:
    """If the parent of this process is killed, save and stop as after SIGTERM. A no-op unless it set PARENT."""
    if PARENT not in os.environ:
        return
    pipe = int(os.environ.pop(PARENT))
    os.set_inheritable(pipe, False)

    def watch() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class Stop:
    """Context manager: the first SIGTERM or SIGINT raises Interrupted, the second has its default effect.

    Inside `with stop.at_step_end()`, the first signal is only recorded in `number`, which the loop checks after each
    step.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._deferred = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        # only the main thread may set handlers: for a run in another thread, its caller handles signals
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    @contextmanager
    def at_step_end(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        if not self._deferred:
            raise Interrupted(number, "stopped")

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
