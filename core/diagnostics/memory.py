"""Observers of memory: what a GPU has allocated and reserved, and micro-batches that were divided when it ran out."""

from __future__ import annotations

from collections.abc import Callable

import torch

from core.common.memory import of_gpu
from core.record.journal import Journal
from core.record.run import MICRO_BATCHES, RecordedRun
from core.training.assemble import Assembly
from core.training.loop import Event


def gpu_memory(journal: Journal, device: torch.device) -> Callable[[Event], None]:
    """Log the memory of a GPU at the end of each logging interval, as system metrics by optimizer step."""

    def log(event: Event) -> None:
        if event.metrics and event.validation is None:
            journal.metrics(event.step, of_gpu(torch.cuda.memory_stats(device)))

    return log


def divisions(journal: Journal, parts: Assembly, say: Callable[[str], None]) -> Callable[[Event], None]:
    """Say and record, in the tag MICRO_BATCHES, from which step on there are how many micro-batches, once memory has
    run out."""
    state, declared = parts.state, parts.setup.grad_accum_steps
    known = state.split
    contrasted = parts.setup.views > 1
    same = "with fewer images to contrast" if contrasted else "with the same gradients up to rounding"
    if known > 1:
        say(f"memory ran out before: {declared * known} micro-batches per step instead of {declared}")

    def look(event: Event) -> None:
        nonlocal known
        if state.split == known:
            return
        known, number = state.split, declared * state.split
        images = -(-parts.train.plan.share // number)
        say(
            f"out of memory at step {event.step}: from this step on, {number} micro-batches of {images} images per "
            f"step instead of {declared}, {same}"
        )
        before = RecordedRun(journal.folder).tags.get(MICRO_BATCHES, "")
        journal.write("tags", values={MICRO_BATCHES: f"{before}, " * bool(before) + f"{number} from step {event.step}"})

    return look
