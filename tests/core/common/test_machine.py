"""What only Linux has is never needed: a first training runs on a Mac."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from core.common import machine
from core.common.paths import runs
from core.launch import Launch
from core.loading.batches import Plan
from core.loading.images import Images
from core.loading.loader import feed
from core.record import provenance
from core.training import runtime
from data.reading import ingest

IMAGES = Images(np.zeros((10, 8, 8, 3), np.uint8), np.arange(10), np.zeros(10, dtype=np.int64))
# what Python has on Linux and lacks on macOS, that a trainer might be tempted to use
LINUX_ONLY = {
    "os": "sched_getaffinity sched_setaffinity posix_fadvise posix_fallocate fdatasync copy_file_range memfd_create "
    "pidfd_open eventfd getrandom splice O_DIRECT O_TMPFILE O_PATH O_NOATIME",
    "signal": "pidfd_send_signal sigtimedwait sigwaitinfo SIGRTMIN SIGRTMAX SIGPWR SIGSTKFLT",
    "resource": "prlimit RUSAGE_THREAD",
    "time": "CLOCK_BOOTTIME",
}
MAC = f"""
import ctypes, importlib, multiprocessing, pathlib
import torch  # its CUDA bindings are of Linux
for name, lacking in {LINUX_ONLY!r}.items():
    module = importlib.import_module(name)
    for attribute in lacking.split():
        if hasattr(module, attribute):
            delattr(module, attribute)
library = ctypes.CDLL
ctypes.CDLL = lambda name, *rest, **more: object() if name is None else library(name, *rest, **more)
read = pathlib.Path.read_text
def read_text(path, *arguments, **keywords):
    if str(path).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return read(path, *arguments, **keywords)
pathlib.Path.read_text = read_text
multiprocessing.set_start_method("spawn")
from core.cli.main import experiment as main
main("experiments.tiny")
"""


def test_the_cores_of_this_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 7}, raising=False)
    assert machine.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


def test_all_that_count_cores_do_so_where_the_system_keeps_no_set_of_them(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert feed(Plan(10, 4), IMAGES, torch.device("mps")).loader.loader.num_workers == 3
    assert provenance.hardware(torch.device("cpu"))["hardware.cores"] == "4"
    assert list(ingest._in_pool(lambda number: -number, range(20))) == [-number for number in range(20)]
    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    with runtime.open_runtime(Launch(mlflow=False), SimpleNamespace()):
        assert calls == [4]


def test_peak_memory_comes_in_bytes_on_a_mac_and_in_kilobytes_elsewhere(monkeypatch):
    import resource

    def lacking(path, *arguments, **keywords):
        raise FileNotFoundError(2, "No such file or directory", str(path))

    monkeypatch.setattr(Path, "read_text", lacking)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=300 * 2**20))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert provenance.peak_memory_mb() == 300
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert provenance.peak_memory_mb() == 300 * 2**10


def test_a_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda name: SimpleNamespace())
    runtime.keep_freed_memory()


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_first_training_runs_on_a_machine_like_a_mac(workers, home):
    """Without what Linux alone has, /proc and glibc; processes are spawned, not forked."""
    words = ["--epochs", "1", "--limit", "200", "--mlflow", "false", "--workers", workers, "--threads", "1"]
    command = [sys.executable, "-c", MAC, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    (run,) = runs().iterdir()
    assert (run / "summary.json").exists()
