"""Time of `labbook predict` against decoding and forward passes alone, for ResNet-18 on small images and photographs.

    python -m tests.benchmarks.predict FOLDER [ROUNDS]

FOLDER holds JPEG files of CIFAR's size at any depth, such as CIFAR-10 (JPEG). The photographs, 500 x 400, are enlarged
from them, with grain. Both sides decode the same files to the same batches and run the same network with as many torch
threads; the base does so in turn, a batch at a time, and writes nothing. To reach: at most 1.15x.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":
    os.environ["LABBOOK_HOME"] = tempfile.mkdtemp()

import numpy as np
from PIL import Image

from core.experiment import Experiment
from core.inference.network import Network
from core.launch import Launch
from core.models import ResNet
from core.optimizers import SGD
from core.runs.train import train
from core.runs.trained import Run
from core.training.runtime import keep_freed_memory
from data import ImageFolder
from data.predict.asked import Asked
from data.predict.inputs import Reading
from data.predict.results import Kept
from data.reading.decode import AS_DECLARED, decode
from data.reading.frame import Frame
from tests.benchmarks.common import in_turn, show

SMALL, PHOTOGRAPHS = 2048, 256  # files
SIDE = 224  # of a photograph as the network takes it


def untrained(folder: Path, size: int, stem: str) -> Run:
    """A run of ResNet-18 after a few steps on sixteen noisy images."""
    random = np.random.default_rng(0)
    for at in range(16):
        path = folder / f"class{at % 2}" / f"{at}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (size, size, 3), np.uint8)).save(path)
    model = ResNet(depth=18, stem=stem)
    declared = Experiment(data=ImageFolder(size=size), model=model, optimizer=SGD(lr=1e-3), epochs=1, batch_size=4)
    return train(declared, Launch(mlflow=False, root=folder))


def photographs(folder: Path, files: Sequence[Path]) -> Path:
    """Photographs of 500 x 400 pixels with the content of small images."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for at, path in enumerate(files):
        large = np.asarray(Image.open(path).convert("RGB").resize((500, 400), Image.Resampling.BICUBIC))
        grainy = large + random.normal(0, 8, large.shape)
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(folder / f"{at:06}.jpg", quality=88)
    return folder


def alone(network: Network, files: Sequence[Path], size: int) -> float:
    """Seconds an image of decoding and forward passes."""
    began = time.perf_counter()
    for start in range(0, len(files), network.chunk):
        pixels = [decode(path.read_bytes(), path.name, size) for path in files[start : start + network.chunk]]
        network.task.probabilities(network.logits(np.stack(pixels))).numpy()
    return (time.perf_counter() - began) / len(files)


def predicted(asked: Asked, folder: Path, count: int) -> float:
    """Seconds an image of the command, from the folder to the finished CSV file; the network is loaded before."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place, Kept(Path(place, "out.csv"), {"runs": []}) as kept:
        for rows in asked.rows([str(folder)], kept.done):
            kept.add(rows)
        kept.finish(asked.names)
    return (time.perf_counter() - began) / count


def main(source: Path, rounds: int) -> None:
    keep_freed_memory()  # as the command does; for both
    files = sorted(source.rglob("*.jpg"))[:SMALL]
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        small = root / "small"
        small.mkdir()
        for at, path in enumerate(files):
            (small / f"{at:06}.jpg").write_bytes(path.read_bytes())
        large = photographs(root / "large", files[:PHOTOGRAPHS])
        for title, folder, size, stem in (("CIFAR size", small, 32, "cifar"), ("photographs", large, SIDE, "imagenet")):
            run = untrained(root / f"train{size}", size, stem)
            asked = Asked([run], 1, 0.0, "auto", Reading(Frame(size, size), AS_DECLARED), None)
            inside = sorted(folder.iterdir())
            candidates: dict[str, Callable[[], float]] = {
                "decoding and forward": lambda a=asked, i=inside, s=size: alone(a.networks[0], i, s),
                "labbook predict": lambda a=asked, f=folder, i=inside: predicted(a, f, len(i)),
            }
            figures = in_turn(candidates, rounds)
            show(f"ResNet-18, {len(inside):,} {title}", figures, "decoding and forward", "us/image", 1e6)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
