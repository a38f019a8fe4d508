"""What the entries of the GPU check share: where they run, data without a download, short trainings."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.cli import main as command
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.models import ResNet
from core.optimizers import SGD
from core.runs.train import train
from core.runs.trained import Run
from core.tracking.api import NoMirror
from core.training.assemble import Assembly, assemble
from core.training.loop import Event, fit
from core.training.runtime import open_runtime
from experiments.tiny import EXPERIMENT
from tests.support.runs import digest

ROOT = Path(__file__).resolve().parents[2]


class Skip(Exception):
    """An entry that cannot run here; the message is the reason."""


@dataclass(frozen=True)
class Bench:
    """device: cuda or cpu.  small: sizes for a trial without a GPU.  home: LABBOOK_HOME of an entry, for its runs."""

    device: str
    small: bool
    home: Path

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    def of(self, large: int, small: int) -> int:
        """A size."""
        return small if self.small else large

    def needs_gpu(self, why: str) -> None:
        if not self.on_gpu:
            raise Skip(why)

    def needs_option(self, name: str) -> None:
        if name not in Launch.model_fields:
            raise Skip(f"this checkout has no option --{name}")

    def wait(self) -> None:
        """Wait until the GPU has done what it was told."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def launch(self, **options: Any) -> Launch:
        return Launch(**({"device": self.device, "mlflow": False, "threads": 1} | options))

    @property
    def digits(self) -> Experiment:
        """A small CNN on the digits, which are part of scikit-learn."""
        return EXPERIMENT.but({"epochs": 3})

    @property
    def network(self) -> Experiment:
        """A ResNet-18 on random images, in which results of one image do not depend on the others."""
        data = Noise(images=self.of(2_048, 96), size=self.of(64, 16))
        return Experiment(
            data=data,
            model=ResNet(depth=18, stem="cifar", norm="group"),
            optimizer=SGD(lr=0.01, momentum=0.9),
            epochs=1,
            batch_size=self.of(512, 32),
        )

    def train(self, changes: Mapping[str, Any] | None = None, **options: Any) -> Run:
        """A finished run on the digits."""
        run = train(self.digits.but(changes or {}), self.launch(**options), "tiny")
        assert run.status == "FINISHED", run.status
        return run

    def built(self, experiment: Experiment, **options: Any) -> Assembly:
        return assemble(experiment, experiment.data.load(None), self.launch(**options))

    def fitted(self, experiment: Experiment, **options: Any) -> Assembly:
        """A declaration, trained without a record."""
        with open_runtime(self.launch(**options), NoMirror()):
            parts = self.built(experiment, **options)
            list(fit(parts.setup, parts.state, parts.train, parts.val))
        return parts

    def events(self, experiment: Experiment, **options: Any) -> list[Event]:
        """The events of a training without a record."""
        with open_runtime(self.launch(**options), NoMirror()):
            parts = self.built(experiment, **options)
            return list(fit(parts.setup, parts.state, parts.train, parts.val))


class Noise(Dataset):
    """Random images of two classes, of which one is darker."""

    images: int = 1_024
    size: int = 32

    def load(self, root: Path | None = None) -> Splits:
        random = np.random.default_rng(0)
        targets = np.arange(self.images + 64) % 2
        shape = (len(targets), self.size, self.size, 3)
        pixels = random.integers(0, 200, shape, dtype=np.uint8) + 50 * targets[:, None, None, None].astype(np.uint8)
        images = Images(pixels, np.arange(len(targets)), targets)
        train, held = images.take(np.arange(self.images)), images.take(np.arange(self.images, len(targets)))
        return Splits("noise", ("dark", "bright"), train, held, held, "noise", "made up")


def same_weights(one: Run, other: Run) -> None:
    assert digest(one) == digest(other), f"the weights of {one.id} and {other.id} differ"


def started(*words: str, environment: Mapping[str, str] = os.environ) -> subprocess.Popen[str]:
    """A command line as a process of its own."""
    environment = {**environment, "PYTHONPATH": str(ROOT)}
    out = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=environment, text=True, stdout=out, stderr=subprocess.STDOUT
    )


def finished(process: subprocess.Popen[str], status: int = 0) -> str:
    """The output of a process that ended with this status."""
    text, _ = process.communicate()
    assert process.returncode == status, f"exit status {process.returncode}:\n{text[-3000:]}"
    return text


def called(verb: str, *words: str, status: int | None = 0) -> str:
    """The output of a verb of labbook, in this process. status: expected; None: any."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        found = command.run(verb, words, command.VERBS)
    assert status is None or found == status, f"exit status {found}:\n{out.getvalue()[-3000:]}"
    return out.getvalue()


@contextmanager
def limited(megabytes: float) -> Iterator[None]:
    """Let torch's allocator take no more than this of the GPU, beyond which it runs out of memory as it would at the
    real limit."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, megabytes * 2**20 / whole))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def peak_megabytes(action: Callable[[], object]) -> float:
    """The most that the tensors of an action take of the GPU."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    action()
    return torch.cuda.max_memory_allocated() / 2**20
