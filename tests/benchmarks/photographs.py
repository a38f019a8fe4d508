"""JPEG files against torchvision's ImageFolder, and what a hundred times as many files cost in memory.

    python -m tests.benchmarks.photographs [ROUNDS]

Photographs: 1,600 JPEG files of 500 x 400 pixels and 400 of 1000 x 800 (smooth noise, quality 88), random crop to
224, flip, normalized float32, batch 32, in turn: torchvision; files decoded as they come, before and after their crops
became faster; kept reduced (--data.cached resized) and kept as pixels of 224 x 224 (the default), after the first
start; with 2 workers each, and the CPU time without workers. Then the bytes that the caches keep of an image.

Small images: 50,000 files of 32 x 32, decoded once (labbook keeps them) against an epoch of torchvision's ImageFolder
with 2 workers, and by CPU time without workers; and the time to the splits of a second start in a fresh process beyond
its imports. Memory: peak of a fresh process that loads a folder of 100,000 files (hard links), against 1,000.

To reach: photographs as they come at least 1.6x torchvision's images/s, kept ones at least 4x; small images decoded at
least as fast; a second start in under 2 s; under 200 MB more.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from core import randomness as K
from core.augment import HorizontalFlip, RandomResizedCrop, augmented, per_image
from core.context import Clock
from core.loading.batches import Plan
from core.loading.images import Box, Pixels
from core.loading.loader import feed
from core.loading.normalize import normalizer
from core.training.runtime import keep_freed_memory
from data import ImageFolder, caches
from data.reading import decode
from data.reading.frame import Frame
from tests.benchmarks.common import in_turn, show

PHOTOGRAPHS, SMALL, MANY, FEW = 1_600, 50_000, 100_000, 1_000
BATCH, WORKERS, SIDE = 32, 2, 224
MEAN, STD = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
CPU = torch.device("cpu")
LOADED = """
import re, sys, time
from pathlib import Path
from data import ImageFolder
import numpy, torch
began = time.perf_counter()
splits = ImageFolder(size=32).load(Path(sys.argv[1]))
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]  # getrusage's may be the parent's
print(time.perf_counter() - began, int(peak) / 1024)
"""


def photographs(folder: Path, number: int, height: int, width: int) -> Path:
    """A folder of two classes of JPEG files."""
    random = np.random.default_rng(0)
    for at in range(number):
        path = folder / f"class{at % 2}" / f"{at:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (max(2, height // 10), max(2, width // 10), 3), np.uint8))
        grain = random.normal(0, 8, (height, width, 3))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + grain
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=88)
    return folder


class Before(RandomResizedCrop):
    """The crop as it was: a call of numpy for each number, and pixels resized plane by plane. The same bits."""

    def of(self, pixels: np.ndarray | Pixels, row: int, key: int) -> np.ndarray:
        now, decode.resized_part = decode.resized_part, by_planes
        try:
            return super().of(pixels, row, key)
        finally:
            decode.resized_part = now

    def box(self, key: int, height: int, width: int) -> Box:
        tries = K.fold(np.array([key], dtype=np.int64), np.arange(10, dtype=np.int64))
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * K.uniform(tries, "crop area")
        aspect = self.ratio[0] * (self.ratio[1] / self.ratio[0]) ** K.uniform(tries, "crop aspect")
        wide = np.rint(np.sqrt(height * width * area * aspect)).astype(int).clip(1)
        tall = np.rint(np.sqrt(height * width * area / aspect)).astype(int).clip(1)
        at = np.flatnonzero((wide <= width) & (tall <= height))[0]  # one of ten fits in these files
        top = int(K.uniform(tries, "crop down")[at] * (height - tall[at] + 1))
        left = int(K.uniform(tries, "crop right")[at] * (width - wide[at] + 1))
        return top, left, int(tall[at]), int(wide[at])


def by_planes(part: torch.Tensor, frame: Frame) -> np.ndarray:
    made = interpolate(part[None], (frame.height, frame.width), mode="bilinear", antialias=True)
    return made[0].permute(1, 2, 0).contiguous().numpy()


def theirs(folder: Path, *steps: Callable, workers: int = WORKERS) -> Callable[[], Iterable]:
    """Epochs of torchvision's ImageFolder in a DataLoader."""
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    found = datasets.ImageFolder(str(folder), transform)
    loader: DataLoader = DataLoader(found, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda: loader


def ours(
    folder: Path, cached: Any = False, workers: int = WORKERS, crop: type[RandomResizedCrop] = RandomResizedCrop
) -> Callable[[], Iterable]:
    """Epochs of all images of the folder.  cached: as of ImageFolder; False: decoded as they come."""
    splits = ImageFolder(size=SIDE, cached=cached, val_fraction=0.01, test_fraction=0.01).load(folder)
    steps, images = (crop(), HorizontalFlip()), splits.train
    batches = feed(Plan(len(images), BATCH), images, CPU, per_image(steps), workers=workers)
    normalize, epochs = normalizer(MEAN, STD, CPU), count()
    return lambda: (augmented(steps, 2, normalize(batch), Clock(0, 1, 1)) for batch in batches.epoch(next(epochs)))


def seconds(epoch: Callable[[], Iterable], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """Seconds an image of one epoch."""

    def measure() -> float:
        began, images = clock(), 0
        for batch in epoch():
            images += len(batch[0])
        return (clock() - began) / images

    return measure


def compared(title: str, folder: Path, rounds: int, workers: int) -> None:
    """A table of all ways to read photographs. Without workers, of the CPU time."""
    clock = time.perf_counter if workers else time.thread_time
    crop = (transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip())
    epochs = {
        "torchvision": theirs(folder, *crop, workers=workers),
        "files, before": ours(folder, workers=workers, crop=Before),
        "files": ours(folder, workers=workers),
        "kept reduced": ours(folder, "resized", workers),
        "kept as pixels (default)": ours(folder, True, workers),
    }
    figures = in_turn({name: seconds(epoch, clock) for name, epoch in epochs.items()}, rounds)
    kind = f"{workers} workers" if workers else "CPU time without workers"
    show(f"{title}, random resized crop, {kind}", figures, "torchvision", "us/image", 1e6)


def kept() -> None:
    """Print what the caches so far keep of each image."""
    for entry in caches.entries():
        count = len(json.loads((entry.folder / "index.json").read_text())["rows"])
        print(f"{entry.sources[0]}: {entry.size / count / 1000:.1f} kB an image in {entry.folder.name[:8]}")


def decoding(folder: Path, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds an image of a first start, in a store of its own."""
    with tempfile.TemporaryDirectory() as home:
        before, os.environ["LABBOOK_HOME"] = os.environ["LABBOOK_HOME"], home
        began = clock()
        ImageFolder(size=32).load(folder)
        os.environ["LABBOOK_HOME"] = before
        return (clock() - began) / SMALL


def loaded(folder: Path) -> tuple[float, float]:
    """(seconds to the splits beyond imports, peak memory in MB) of a fresh process."""
    done = subprocess.run([sys.executable, "-c", LOADED, str(folder)], stdout=subprocess.PIPE, text=True, check=True)
    took, peak = map(float, done.stdout.split())
    return took, peak


def linked(folder: Path, source: Path, number: int) -> Path:
    """A folder of so many names of a few files."""
    files = sorted(source.glob("*/*.jpg"))[:FEW]
    for at in range(number):
        path = folder / f"class{at % 2}" / f"{at:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[at % len(files)], path)
    return folder


def main(rounds: int) -> None:
    keep_freed_memory()  # as a run does; for both
    torch.set_num_threads(1)  # beside two workers on two cores, further threads here would only take their time
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        os.environ["LABBOOK_HOME"] = str(root / "home")
        large, larger, small = (
            photographs(root / "large", PHOTOGRAPHS, 400, 500),
            photographs(root / "larger", PHOTOGRAPHS // 4, 800, 1000),
            photographs(root / "small", SMALL, 32, 32),
        )
        for workers in (WORKERS, 0):
            compared("photographs of 500 x 400", large, rounds, workers)
            compared("photographs of 1000 x 800", larger, rounds, workers)
        kept()
        figures = in_turn({"torchvision": seconds(theirs(small)), "labbook": lambda: decoding(small)}, rounds)
        show("small images, first start", figures, "torchvision", "us/image", 1e6)
        cpu = time.process_time
        alone = {"torchvision": seconds(theirs(small, workers=0), cpu), "labbook": lambda: decoding(small, cpu)}
        show("the same by CPU time, without workers", in_turn(alone, rounds), "torchvision", "us/image", 1e6)
        ImageFolder(size=32).load(small)
        print(f"\nsecond start, {SMALL:,} small images: {loaded(small)[0]:.2f} s beyond imports")
        peaks = {}
        for number in (FEW, MANY):
            folder = linked(root / f"linked{number}", small, number)
            first, second = loaded(folder), loaded(folder)
            peaks[number] = max(first[1], second[1])
            print(
                f"{number:,} files: first start {first[0]:.1f} s, second {second[0]:.2f} s, peak {peaks[number]:.0f} MB"
            )
        print(f"{peaks[MANY] - peaks[FEW]:.0f} MB more for {MANY:,} files than for {FEW:,}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
