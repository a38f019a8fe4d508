"""What labbook chooses by rule - workers, threads, batch of evaluation, memory format - against a small grid.

    python -m tests.benchmarks.defaults [ROUNDS] [cpu] [SETUP ...]

Four set-ups, an epoch of training and validation each, in turn: digits (digits_cnn), cifar (32 pixels, resident, crop
and flip), photographs (JPEG files of 250x200 pixels, decoded on the fly), shards (the same files in tar shards). The
figure is the time of a candidate relative to the rule's. With `cpu` it is CPU time, of this process and of the loader's
workers, on one thread: it shows what a choice costs, but not what workers and threads gain side by side, so threads are
left out. To reach: no candidate below 0.9x of the rule.
"""

import io
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import torch

from core.augment import HorizontalFlip, RandomCrop, RandomResizedCrop
from core.common.machine import usable_cores
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.models import CifarResNet, ResNet
from core.optimizers import SGD
from core.training.assemble import Assembly, assemble
from core.training.loop import Event, fit
from core.training.runtime import keep_freed_memory
from data import ImageFolder, WebShards
from experiments.digits_cnn import EXPERIMENT as DIGITS
from tests.benchmarks.common import in_turn, show
from tests.benchmarks.photographs import photographs as write_photographs

CPU_TIME = "cpu" in sys.argv
ENDLESS = 1000  # epochs
TICKS = os.sysconf("SC_CLK_TCK")


class Noise(Dataset):
    """Random pictures of CIFAR's size."""

    def load(self, root: Path | None) -> Splits:
        pixels = np.random.default_rng(0).integers(0, 256, (1536, 32, 32, 3), dtype=np.uint8)
        images = Images(pixels, np.arange(1536), np.arange(1536) % 10)
        train, val = images.take(np.arange(512)), images.take(np.arange(512, 1536))
        return Splits("noise", tuple("abcdefghij"), train, val, val, "none", "made up")


def as_shards(folder: Path, source: Path) -> Path:
    """The files of a folder in tar shards."""
    folder.mkdir()
    with tarfile.open(folder / "train-0.tar", "w") as archive:
        for number, path in enumerate(sorted(source.glob("*/*.jpg"))):
            for suffix, content in ((".jpg", path.read_bytes()), (".cls", path.parent.name.encode())):
                info = tarfile.TarInfo(f"{number:06}{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return folder


def setups(place: Path) -> dict[str, tuple[Experiment, Path | None]]:
    """{name: (declaration, root)}"""
    files = write_photographs(place / "files", 96, 200, 250)
    cifar = Experiment(
        data=Noise(),
        model=CifarResNet(depth=8),
        augment=(RandomCrop(padding=4), HorizontalFlip()),
        optimizer=SGD(lr=0.01),
        batch_size=128,
    )
    folder = ImageFolder(size=96, cached=False, val_fraction=0.4, test_fraction=0.1)
    photographs = cifar.but(
        {
            "data": folder,
            "model": ResNet(depth=18),
            "augment": (RandomResizedCrop(), HorizontalFlip()),
            "batch_size": 16,
        }
    )
    shards = photographs.but({"data": WebShards(size=96, val_fraction=0.4, test_fraction=0.1)})
    return {
        "digits": (DIGITS.but({"stopping": None}), None),
        "cifar": (cifar, None),
        "photographs": (photographs, files),
        "shards": (shards, as_shards(place / "shards", files)),
    }


def grid() -> dict[str, dict[str, object]]:
    """{candidate: options that differ from the rule's}"""
    cores = usable_cores()
    found: dict[str, dict[str, object]] = {"rule": {}}
    found |= {f"{n} workers": {"workers": n} for n in sorted({0, 1, cores})}
    found |= {f"evaluation in batches of {n}": {"eval_batch_size": n} for n in (64, 128, 256, 512)}
    found |= {"contiguous": {"channels_last": False}}
    return found if CPU_TIME else found | {f"{n} threads": {"threads": n} for n in sorted({1, max(1, cores // 2)})}


def epochs(parts: Assembly) -> Callable[[], float]:
    """Seconds of the next epoch each time, training and validation."""
    events = fit(parts.setup, parts.state, parts.train, parts.val)

    def measure() -> float:
        torch.set_num_threads(1 if CPU_TIME else parts.launch.threads or usable_cores())
        began = clock()
        for _ in until_validated(events):
            pass
        return clock() - began

    return measure


def until_validated(events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        yield event
        if event.validation:
            return


def clock() -> float:
    """Seconds; of CPU time, if asked for, with that of the loader's workers."""
    if not CPU_TIME:
        return time.perf_counter()
    stats = [Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split() for child in active_children()]
    return time.process_time() + sum(int(fields[11]) + int(fields[12]) for fields in stats) / TICKS


def contiguous(parts: Assembly) -> Assembly:
    """The same with weights and images as [N, C, H, W] in memory."""
    parts.state.trained.to(memory_format=torch.contiguous_format)
    normalize = parts.setup.normalize

    def as_declared(batch):
        made = normalize(batch)
        return made._replace(images=made.images.contiguous())

    return replace(parts, setup=replace(parts.setup, normalize=as_declared))


def built(experiment: Experiment, splits: Splits, options: dict[str, object]) -> Assembly:
    given = {name: value for name, value in options.items() if name != "channels_last"}
    parts = assemble(experiment.but({"epochs": ENDLESS}), splits, Launch(device="cpu", mlflow=False, **given))
    return parts if options.get("channels_last", True) else contiguous(parts)


def main() -> None:
    words = sys.argv[1:]
    rounds = next((int(word) for word in words if word.isdecimal()), 5)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        os.environ["LABBOOK_HOME"] = str(Path(place) / "home")
        for name, (experiment, root) in setups(Path(place)).items():
            if (chosen := [word for word in words if word.isalpha() and word != "cpu"]) and name not in chosen:
                continue
            splits = experiment.data.load(root)
            measured = {what: epochs(built(experiment, splits, options)) for what, options in grid().items()}
            show(f"an epoch of {name}", in_turn(measured, rounds), "rule", "ms", 1000)


if __name__ == "__main__":
    main()
