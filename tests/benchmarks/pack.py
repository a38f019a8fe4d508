"""How fast `labbook pack` is with one and two workers, and what a million images ask of it.

    python -m tests.benchmarks.pack speed [--images 1000] [--rounds 3]
    python -m tests.benchmarks.pack many [--images 1000000]

speed: photographs, JPEG of 1000 x 750, are made with grain, and packed into shards of 256 pixels with a search for
near-duplicates, by the local engine. Workers start once for each packing, which counts. To reach: two workers pack at
least 0.8 times as many images in a second as two times one worker. On a machine with other work, seconds say little;
the CPU time of an image, which is that of its task, should be the same for one worker and for two.
many: small JPEG files in 100 folders are packed by the command, without and with the search for near-duplicates.
"""

import argparse
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    os.environ["LABBOOK_HOME"] = tempfile.mkdtemp()
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from core.engines.opening import opened
from data import ImageFolder
from data.pack import pack as packing
from data.pack.reduce import Batch, reduce
from tests.benchmarks.common import in_turn, measured

SIDE = (1000, 750)  # of a photograph
CLASSES = 100  # of small images


def timed(batch: Batch) -> int:
    """As `reduce`, with a line of its CPU seconds in a file of this worker."""
    began = time.process_time()
    count = reduce(batch)
    with (batch.folder.parent / f"{os.getpid()}.cpu").open("a") as stream:
        stream.write(f"{time.process_time() - began}\n")
    return count


def photographs(folder: Path, count: int) -> Path:
    """Photographs of noise at several scales."""
    for number in range(count):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(SIDE, Image.Resampling.BICUBIC)).astype(np.int16)
        grain = random.integers(-12, 13, pixels.shape, dtype=np.int16)
        path = folder / f"class{number % 4}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def speed(count: int, rounds: int) -> None:
    """Print a line for one and for two workers."""
    packing.reduce = timed  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        source = photographs(root / "source", count)

        def packed(workers: int) -> tuple[float, float, str]:
            """(seconds, CPU seconds of the tasks, digest of the set)"""
            out = root / f"set{workers}"
            shutil.rmtree(out, ignore_errors=True)
            order = packing.Order(source, out, "shards", 256, {}, per_task=50)
            began = time.perf_counter()
            with opened("local", workers) as engine:
                made = packing.pack(order, ImageFolder(), engine)
            seconds = time.perf_counter() - began
            spent = [float(line) for each in order.work.glob("*.cpu") for line in each.read_text().splitlines()]
            shutil.rmtree(order.work, ignore_errors=True)
            return seconds, sum(spent), made["digest"]

        figures = in_turn({"1 worker": lambda: packed(1), "2 workers": lambda: packed(2)}, rounds)
    best = {name: min(seconds for seconds, _, _ in found) for name, found in figures.items()}
    print(f"{count:,} photographs of {SIDE[0]} x {SIDE[1]} pixels, {rounds} rounds in turn; {os.cpu_count()} cores")
    for name, found in figures.items():
        cpu = min(spent for _, spent, _ in found) / count
        print(f"  {name:<10}{count / best[name]:>8.1f} images/s{1000 * cpu:>8.2f} ms of CPU per image")
    print(f"  of linear: {best['1 worker'] / best['2 workers'] / 2:.2f}; load {os.getloadavg()[0]:.1f}")
    print(f"  digests: {len({digest for found in figures.values() for _, _, digest in found})} (1: the same bytes)")


def small(folder: Path, numbers: range) -> None:
    """Write JPEG files of 32 x 32 pixels, each of another blurred noise."""
    for number in numbers:
        coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / f"class{number % CLASSES:02}" / f"{number:07}.jpg"
        Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)


def many(count: int) -> None:
    """Print what the command uses for so many small images."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for number in range(CLASSES):
            (root / "source" / f"class{number:02}").mkdir(parents=True)
        parts = [range(start, min(start + 10_000, count)) for start in range(0, count, 10_000)]
        with ProcessPoolExecutor() as made:
            list(made.map(partial(small, root / "source"), parts))
        print(f"{count:,} JPEG files of 32 x 32 pixels; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{'':<24}{'seconds':>9}{'images/s':>10}{'own CPU s':>11}{'own peak MB':>13}")
        for kind in ("exact", "near"):
            words = ["pack", str(root / "source"), "--to", "shards", "--out", str(root / kind)]
            used = measured(*words, "--duplicates", kind)
            line = f"{used.seconds:>9.0f}{count / used.seconds:>10.0f}{used.cpu:>11.0f}{used.peak:>13.0f}"
            print(f"{f'--duplicates {kind}':<24}{line}", flush=True)
            shutil.rmtree(root / kind)


def main() -> None:
    """Read the words, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["speed", "many"])
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.table == "many":
        many(given.images or 1_000_000)
    else:
        speed(given.images or 1000, given.rounds)


if __name__ == "__main__":
    main()
