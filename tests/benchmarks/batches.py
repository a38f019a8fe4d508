"""Images a second through Batches against a plain DataLoader with torchvision's transforms or albumentations'.

    python -m tests.benchmarks.batches [ROUNDS] [cpu]

CIFAR-sized images (random pixels), float32 and normalized, batch 512, 2 workers for what is done on the host; beside
workers, this process has one thread of torch, elsewhere two. With `cpu`: no workers, one thread, and images a second of
its CPU time, which a busy machine changes little.
To reach: crop and flip on the device at least 15x torchvision's; albumentations through Batches at least 2x of it in a
DataLoader; RandAugment through Batches at least as fast as torchvision's in a DataLoader.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from core.augment import Albumentation, Augment, HorizontalFlip, RandAugment, RandomCrop, augmented
from core.augment import per_image as of_images
from core.context import Clock
from core.loading.batches import Batch, Plan
from core.loading.images import Images
from core.loading.loader import feed
from core.loading.normalize import normalizer
from core.training.runtime import keep_freed_memory
from tests.benchmarks.common import in_turn, show

CPU_TIME = "cpu" in sys.argv
COUNT, SIZE, WORKERS = (512 * 8, 512, 0) if CPU_TIME else (512 * 40, 512, 2)
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CPU = torch.device("cpu")
KINDS = ("DataLoader", "Batches")
ON_DEVICE = "crop and flip"
LISTED = {
    "PadIfNeeded": {"min_height": 40, "min_width": 40},
    "RandomCrop": {"height": 32, "width": 32},
    "HorizontalFlip": {},
}


class Items(Dataset):
    """The usual Dataset: one image at a time, through a transform."""

    def __init__(self, images: Images, transform: Callable):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        return self.transform(self.images.pixels[i]), int(self.images.targets[i])


def noise() -> Images:
    """As many random pictures as the epochs are long."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    return Images(pixels, np.arange(COUNT), random.integers(0, 10, COUNT))


def through_loader(images: Images, *steps: Callable) -> Callable[[], Iterable]:
    """Epochs of a plain DataLoader; steps: from uint8 [H, W, C] to a float tensor [C, H, W] in 0..1."""
    transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])
    loader: DataLoader = DataLoader(
        Items(images, transform), SIZE, shuffle=True, num_workers=WORKERS, persistent_workers=WORKERS > 0
    )
    return lambda: loader


def through_batches(images: Images, *steps: Augment, workers: int = WORKERS) -> Callable[[], Iterator[Batch]]:
    """Epochs of labbook's Batches; without an image step they need no workers."""
    batches = feed(Plan(COUNT, SIZE), images, CPU, of_images(steps), workers=workers)
    normalize, epochs = normalizer(MEAN, STD, CPU), count()
    return lambda: (augmented(steps, 10, normalize(batch), Clock(0, 1, 1)) for batch in batches.epoch(next(epochs)))


def by_albumentations() -> tuple[Callable, Callable]:
    """The steps of a DataLoader that composes them as their manual does."""
    composed = albumentations.Compose([getattr(albumentations, name)(**given) for name, given in LISTED.items()])

    def changed(image: np.ndarray) -> np.ndarray:
        return composed(image=image)["image"]

    def scaled(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image).permute(2, 0, 1).float().div_(255)

    return changed, scaled


def rate(make: Callable[[], Iterable], threads: int) -> float:
    """Images a second of one epoch, with this number of torch's threads in this process."""
    torch.set_num_threads(threads)
    clock = time.thread_time if CPU_TIME else time.perf_counter
    began = clock()
    seen = sum(len(batch[0]) for batch in make())
    return seen / (clock() - began)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1] != "cpu" else 5
    keep_freed_memory()  # as every run does, and here for both sides
    images = noise()
    picture, tensor = transforms.ToPILImage(), transforms.ToTensor()
    crop, flip = transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()
    listed = [Albumentation(name=name, arguments=given) for name, given in LISTED.items()]
    pairs = {
        ON_DEVICE: (
            through_loader(images, picture, crop, flip, tensor),
            through_batches(images, RandomCrop(padding=4), HorizontalFlip(), workers=0),
        ),
        "albumentations": (through_loader(images, *by_albumentations()), through_batches(images, *listed)),
        "RandAugment": (
            through_loader(images, picture, transforms.RandAugment(2, 9), tensor),
            through_batches(images, RandAugment(num_ops=2, magnitude=9)),
        ),
    }
    measured = {f"{name}, {kind}": make for name, pair in pairs.items() for kind, make in zip(KINDS, pair, strict=True)}
    # beside two workers on two cores, further threads of this process would only take their time
    threads = {name: 2 if name.startswith(ON_DEVICE) and not CPU_TIME else 1 for name in measured}
    figures = in_turn({n: lambda n=n, make=make: rate(make, threads[n]) for n, make in measured.items()}, rounds)
    for name in pairs:
        torch.set_num_threads(threads[f"{name}, {KINDS[0]}"])
        show(f"images a second: {name}", {kind: figures[f"{name}, {kind}"] for kind in KINDS}, KINDS[0], "images/s")


if __name__ == "__main__":
    main()
