"""The protocol of an engine, which knows nothing of what its tasks are about."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
Future = TypeVar("Future")

ATTEMPTS = 3  # of a task whose worker dies
AHEAD = 3  # tasks per worker that are submitted before the first of them is done: bounds the memory


class Engine(Protocol):
    """Runs tasks; what it starts (processes, a cluster) is kept from one `map` to the next, until it is closed."""

    workers: int

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Yield function(task) of each task, in their order.

        function: of a module, so that other processes can import it; it may be run more than once for a task. Tasks are
        taken from the iterable as workers become free. A task whose worker dies is run again by another one, which is
        printed. Raises what the function raises, and UserError if workers cannot be had, or die again and again.
        """
        ...

    def close(self) -> None:
        """End what was started."""
        ...


def in_order(
    submit: Callable[[T], Future], result: Callable[[Future], R], tasks: Iterable[T], ahead: int
) -> Iterator[R]:
    """Yield result(submit(task)) of each task, in their order; at most `ahead` of them wait to be yielded."""
    waiting: deque[Future] = deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) >= ahead:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())
