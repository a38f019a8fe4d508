"""What benchmarks share: things timed in turn, so that a drifting machine is fair to all, and commands measured."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

T = TypeVar("T")


def in_turn(candidates: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Each candidate measured once in each round (it returns its own figure), after one round not counted."""
    figures: dict[str, list[T]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, measure in candidates.items():
            figure = measure()
            if round_:
                figures[name].append(figure)
    return figures


def ratio(figures: Mapping[str, list[float]], name: str, base: str) -> float:
    """Median over rounds of name / base."""
    return statistics.median(a / b for a, b in zip(figures[name], figures[base], strict=True))


def show(title: str, figures: Mapping[str, list[float]], base: str, unit: str, scale: float = 1.0) -> None:
    """A table: median of each, and its ratio to the base, round by round."""
    print(f"\n{title}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(figures[base])} rounds in turn")
    print(f"  {'':<44}{'median ' + unit:>16}{'of ' + base:>22}")
    for name, values in figures.items():
        print(f"  {name:<44}{statistics.median(values) * scale:>16,.1f}{ratio(figures, name, base):>21.2f}x")


class Used(NamedTuple):
    """What a command used, without its workers.  peak: of memory, in MB."""

    seconds: float
    cpu: float
    peak: float


# a command of labbook that says at its end what it used
COMMAND = """
import atexit, os, re
def tell():
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    open(os.environ["LABBOOK_USED"], "w").write(f"{peak} {sum(os.times()[:2])}")
atexit.register(tell)
from core.cli.main import labbook
labbook()
"""


def measured(*words: str) -> Used:
    """What a command of labbook uses; raises if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.monotonic(), Path(folder) / "used"
        environment = os.environ | {"LABBOOK_USED": str(used)}
        subprocess.run([sys.executable, "-c", COMMAND, *words], stdout=subprocess.DEVNULL, check=True, env=environment)
        peak, cpu = used.read_text().split()
        return Used(time.monotonic() - start, float(cpu), float(peak) / 2**10)
