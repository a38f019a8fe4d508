"""What looks more closely at a run when asked to: consumers of its events, each entered and left with the training.

Not asked for, there is one in their place that does nothing. Only the first process looks, and nothing here takes part
in what processes do together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from core.diagnostics.overfit import reached, verdict
from core.record.journal import Journal
from core.training.assemble import Assembly
from core.training.loop import Event

Watch = Callable[[Event], None]


@contextmanager
def watching(journal: Journal, parts: Assembly, say: Callable[[str], None]) -> Iterator[Watch]:
    """To be called with each event. What is left to say and to keep follows when the training has ended by itself."""
    launch, watches = parts.launch, list[Watch]()
    with ExitStack() as stack:
        if launch.overfit:
            stack.enter_context(_judged(journal, parts, say))
        if launch.profile:
            from core.diagnostics.profiler import profiled

            total = parts.context.steps_per_epoch * parts.experiment.epochs - parts.state.step
            watches.append(stack.enter_context(profiled(journal, parts.setup.device, total, say)))
        if launch.diagnose:
            from core.diagnostics.layers import diagnosed

            watches.append(stack.enter_context(diagnosed(journal, parts, say)))
        yield _all(watches)


def _all(watches: list[Watch]) -> Watch:
    def look(event: Event) -> None:
        for watch in watches:
            watch(event)

    return look if watches else _nothing


def _nothing(event: Event) -> None:
    pass


@contextmanager
def _judged(journal: Journal, parts: Assembly, say: Callable[[str], None]) -> Iterator[None]:
    yield
    for line in verdict(parts.experiment, parts.state.history):
        say(line)
    journal.write("tags", values={"overfit": "reached" if reached(parts.state.history) else "not reached"})
