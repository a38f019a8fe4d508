"""Observers of a run, which consume the events of training; most of them are enabled by launch options.

Observers run in rank 0 only and never communicate with other processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from core.diagnostics.memory import divisions, gpu_memory
from core.diagnostics.overfit import reached, verdict
from core.record.journal import Journal
from core.training.assemble import Assembly
from core.training.loop import Event

Watch = Callable[[Event], None]


@contextmanager
def watching(journal: Journal, parts: Assembly, say: Callable[[str], None]) -> Iterator[Watch]:
    """Yield a function to call with each event. Observers print and save their results when training ends normally."""
    launch, device = parts.launch, parts.setup.device
    watches = [divisions(journal, parts, say)]
    with ExitStack() as stack:
        if device.type == "cuda":
            watches.append(gpu_memory(journal, device))
        if launch.overfit:
            stack.enter_context(_overfit_verdict(journal, parts, say))
        if launch.profile:
            from core.diagnostics.profiler import profiled

            total = parts.context.steps_per_epoch * parts.experiment.epochs - parts.state.step
            watches.append(stack.enter_context(profiled(journal, device, total, say)))
        if launch.diagnose:
            from core.diagnostics.layer_statistics import diagnosed

            watches.append(stack.enter_context(diagnosed(journal, parts, say)))
        yield _all(watches)


def _all(watches: list[Watch]) -> Watch:
    def watch_all(event: Event) -> None:
        for watch in watches:
            watch(event)

    return watch_all


@contextmanager
def _overfit_verdict(journal: Journal, parts: Assembly, say: Callable[[str], None]) -> Iterator[None]:
    yield
    for line in verdict(parts.experiment, parts.state.history):
        say(line)
    journal.write("tags", values={"overfit": "reached" if reached(parts.state.history) else "not reached"})
