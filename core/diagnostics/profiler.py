"""--profile: runs torch's profiler for a few steps and saves the results as artifacts of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile

from core.common.files import place
from core.record import provenance
from core.record.journal import Journal, log_text
from core.training.loop import Event

WARMUP = 5  # steps before profiling starts: the first steps allocate memory and tune kernels
STEPS = 5
ROWS = 30


@contextmanager
def profiled(
    journal: Journal, device: torch.device, total: int, say: Callable[[str], None]
) -> Iterator[Callable[[Event], None]]:
    """Profile steps WARMUP + 1 .. WARMUP + STEPS of this process, or the last STEPS steps if `total` is smaller.

    The trace also contains what runs between those steps, such as validation with short epochs.
    """
    profiler = _Profiler(journal, device, total, say)
    profiler.start_if_due()
    try:
        yield profiler
        profiler.finish()  # training may have stopped early
    finally:
        profiler.abandon()


class _Profiler:
    """total: number of steps still to run.  first: number of steps before profiling starts."""

    def __init__(self, journal: Journal, device: torch.device, total: int, say: Callable[[str], None]):
        self.journal, self.device, self.total, self.say = journal, device, total, say
        self.first = max(0, min(WARMUP, total - STEPS))
        self.done = 0  # steps run so far
        self.running: profile | None = None

    def __call__(self, event: Event) -> None:
        if event.validation is None:
            self.done += 1
            if self.done == self.first + STEPS:
                self.finish()
            self.start_if_due()

    def start_if_due(self) -> None:
        if self.done == self.first and self.total > 0:
            self._wait()
            if self.device.type != "cuda":  # without a driver, Kineto reports its absence as an error
                os.environ.setdefault("KINETO_LOG_LEVEL", "6")
            kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])
            self.running = profile(activities=kinds, record_shapes=True, profile_memory=True, acc_events=True)
            self.running.start()

    def finish(self) -> None:
        """Save the profile, if one is running."""
        if not (seen := self.running):
            return
        self._wait()  # kernels launched in a step belong to it
        self.abandon()
        steps = self.done - self.first
        trace = self.journal.artifact("profile/trace.json.gz")
        part = trace.with_name("trace.part.json.gz")
        seen.export_chrome_trace(str(part))
        place(part, trace)
        self.journal.log_artifact("profile/trace.json.gz")
        log_text(self.journal, "profile/operations.txt", operations(seen, self.device, steps))
        log_text(self.journal, "profile/memory.txt", memory(seen, self.device))
        self.say(f"profile of {steps} steps saved to {trace.parent} (open the trace in https://ui.perfetto.dev)")

    def abandon(self) -> None:
        """Stop the profiler, so that nothing else is slowed down or traced."""
        if self.running:
            self.running.stop()
            self.running = None

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def operations(seen: profile, device: torch.device, steps: int) -> str:
    """Table of the most expensive operations by self time, on the GPU if there is one, otherwise on the CPU."""
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=key, row_limit=ROWS, max_name_column_width=60)
    return f"{steps} steps, sorted by {key}\n{table}\n"


def memory(seen: profile, device: torch.device) -> str:
    """Memory use: torch's allocator summary of a GPU, otherwise peak memory of the process and a table of operations by
    allocated memory."""
    if device.type == "cuda":
        return torch.cuda.memory_summary(device)
    table = seen.key_averages().table(sort_by="self_cpu_memory_usage", row_limit=ROWS, max_name_column_width=60)
    return f"peak resident memory of the process: {provenance.peak_memory_mb():,.0f} MB\n{table}\n"
