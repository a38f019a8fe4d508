"""What one and two workers of `labbook pack` do in a second, and what an image costs of the CPU.

    python -m tests.benchmarks.pack [IMAGES] [ROUNDS]

Photographs, JPEG of 1000 x 750, are made with grain, and packed into shards of 256 pixels with a search for
near-duplicates, by the local engine. Workers start once for each packing, which counts. To reach: two workers pack at
least 0.8 times as many images in a second as two times one worker. On a machine with other work, seconds say little;
the CPU time of an image, which is that of its task, should be the same for one worker and for two.
"""

import os
import shutil
import sys
import tempfile
import time
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
from tests.benchmarks.common import in_turn

SIDE = (1000, 750)  # of a photograph


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


def main(count: int, rounds: int) -> None:
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


if __name__ == "__main__":
    main(*(int(word) for word in [*sys.argv[1:], *["400", "3"][len(sys.argv) - 1 :]]))
