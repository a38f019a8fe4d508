"""Images a second through Batches against torchvision transforms and albumentations in a plain DataLoader.

    python -m tests.benchmarks.batches [ROUNDS]

CIFAR-sized images (random pixels), random crop and flip, normalised, float32, batch 512, 2 cores.
To reach: on the device at least 5x torchvision's; albumentations through Batches at least 1.5x of it in a DataLoader.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from core.augment import Albumentation, HorizontalFlip, RandomCrop, augmented, normaliser, per_image
from core.batches import Plan, feed
from core.images import Images
from tests.benchmarks.common import show

COUNT, SIZE, WORKERS = 512 * 40, 512, 2
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
CPU = torch.device("cpu")


class Items(Dataset):
    """The usual Dataset: one image at a time, through a transform."""

    def __init__(self, images: Images, transform: Callable):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        return self.transform(self.images.pixels[i]), int(self.images.targets[i])


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    images = Images(pixels, np.arange(COUNT), random.integers(0, 10, COUNT))
    plan, normalise = Plan(COUNT, SIZE), normaliser(MEAN, STD, CPU)
    steps = (RandomCrop(padding=4), HorizontalFlip())
    by_torchvision = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    listed = {
        "PadIfNeeded": {"min_height": 40, "min_width": 40},
        "RandomCrop": {"height": 32, "width": 32},
        "HorizontalFlip": {},
    }
    composed = albumentations.Compose([getattr(albumentations, name)(**given) for name, given in listed.items()])
    by_albumentations = transforms.Compose(
        [
            lambda image: composed(image=image)["image"],
            lambda image: torch.from_numpy(image).permute(2, 0, 1).float().div_(255),
            transforms.Normalize(MEAN, STD),
        ]
    )
    image_steps = per_image(tuple(Albumentation(name=name, arguments=given) for name, given in listed.items()))
    resident, loaded = feed(plan, images, CPU), feed(plan, images, CPU, image_steps, workers=WORKERS)
    plain = [
        DataLoader(Items(images, transform), SIZE, shuffle=True, num_workers=WORKERS, persistent_workers=True)
        for transform in (by_torchvision, by_albumentations)
    ]
    epochs = iter(range(1000))
    candidates: dict[str, Callable[[], Iterable]] = {
        "torchvision, DataLoader": lambda: plain[0],
        "Batches, crop and flip on the device": lambda: (
            augmented(steps, 10, normalise(batch)) for batch in resident.epoch(next(epochs))
        ),
        "albumentations, DataLoader": lambda: plain[1],
        "albumentations, Batches": lambda: map(normalise, loaded.epoch(next(epochs))),
    }
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(rounds + 1):
        for name, make in candidates.items():
            began = time.perf_counter()
            seen = sum(len(batch[0]) for batch in make())
            if round_:
                figures[name].append(seen / (time.perf_counter() - began))
    show("images a second", figures, "torchvision, DataLoader", "images/s")
    show("images a second", dict(list(figures.items())[2:]), "albumentations, DataLoader", "images/s")


if __name__ == "__main__":
    main()
