"""SIGTERM and Ctrl-C: finish the step, save, leave. A second one ends at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Interrupted(KeyboardInterrupt):
    """A run left at the end of a step because of a signal; its exit status is 128 + number."""

    def __init__(self, number: int, run: str):
        self.number, self.run = number, run
        super().__init__(f"{signal.Signals(number).name}: {run} stopped at the end of a step")


class Stop:
    """While entered, the first SIGTERM or SIGINT is only noted in `number`; the second takes its usual course."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        # only the main thread may set handlers: a run in another thread is left to who started it
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
