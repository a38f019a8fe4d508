"""Runtime environment of a run in this process: mirrors, signals, threads, distributed processes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

from core.common.machine import threads_each
from core.common.memory import prefer_expandable
from core.common.ranks import Ranks
from core.common.signals import Stop
from core.launch import Launch
from core.tracking.alert import Alerts
from core.tracking.api import Followers, Follows, Mirrors
from core.training import distributed


@dataclass(frozen=True)
class Runtime:
    """Environment that exists before anything is built. stop: signals received by this process."""

    mirror: Follows
    stop: Stop
    ranks: Ranks


@contextmanager
def open_runtime(launch: Launch, mirror: Follows | None) -> Iterator[Runtime]:
    """Open the environment of a run. mirror: shared by an invocation with several runs; None: start one here."""
    with _mirrored(launch, mirror) as following, Stop() as stop, distributed.joined() as ranks, _process(launch, ranks):
        yield Runtime(following, stop, ranks)


@contextmanager
def _mirrored(launch: Launch, mirror: Follows | None) -> Iterator[Follows]:
    if mirror is not None:
        yield mirror
        return
    mirrors, alerts = Mirrors(launch.mlflow, launch.also), Alerts(launch.notify)
    try:
        yield Followers((mirrors, alerts))
    finally:
        mirrors.finish()
        alerts.send()


@contextmanager
def _process(launch: Launch, ranks: Ranks) -> Iterator[None]:
    """Set the number of threads, determinism and torch's random state for the duration of a run; afterwards they are
    the caller's again. Processes on one machine share its cores."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    # the number of threads decides on the order of sums, so with deterministic_ranks it does not follow the machine
    torch.set_num_threads(launch.threads or (1 if launch.deterministic_ranks else threads_each(ranks.local_ranks)))
    if launch.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not launch.deterministic
    keep_freed_memory()
    prefer_expandable()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with anomaly_mode(launch.detect_anomaly), torch.random.fork_rng(gpus):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(deterministic)


def keep_freed_memory() -> None:
    """Make glibc keep up to 1 GiB of freed memory for the next tensors of this process.

    By default it returns large blocks to the kernel, which clears each page of the next ones: for the images of a
    batch, this takes longer than normalizing and flipping them. M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of mallopt(3).
    """
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        for option in (-3, -1):
            library.mallopt(option, 1 << 30)


@contextmanager
def anomaly_mode(wanted: bool) -> Iterator[None]:
    """Enable torch.autograd's anomaly mode, which checks each backward pass for NaN and makes it several times
    slower."""
    if not wanted:
        yield
        return
    with torch.autograd.set_detect_anomaly(True):
        yield
