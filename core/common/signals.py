"""SIGTERM and Ctrl-C: finish the step, save, leave. A second one ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from core.common.errors import Interrupted


class Stop:
    """While entered, the first SIGTERM or SIGINT raises Interrupted; inside `with stop.at_step_end()` it is only
    noted in `number`, for the loop to look at between two steps. The second takes its usual course."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._deferred = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        # only the main thread may set handlers: a run in another thread is left to who started it
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
