"""What a transform of torchvision costs as an image step, over the transform alone: seeds, conversions, checks.

    python -m tests.benchmarks.transform

CPU time of one thread for each image of 32x32 and 224x224 pixels, candidates in turn, minima over rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torchvision.transforms import v2

from core import randomness as K
from core.augment import Albumentation, Transform, per_image

ROUNDS, IMAGES = 7, 100


def seconds(act: Callable[[np.ndarray, int], object], image: np.ndarray, keys: list[int]) -> float:
    """CPU seconds for each image."""
    began = time.thread_time()
    for key in keys:
        act(image, key)
    return (time.thread_time() - began) / len(keys)


def main() -> None:
    keys = K.sample_keys(0, 0, np.arange(IMAGES)).tolist()
    for side in (32, 224):
        image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
        alone, tensor = v2.RandomHorizontalFlip(p=1.0), torch.from_numpy(image).movedim(-1, 0)
        candidates: dict[str, Callable[[np.ndarray, int], object]] = {
            "torchvision alone": partial(_alone, alone, tensor),
        }
        for takes in ("tensor", "pil", "array"):
            name = f"Transform, takes {takes}"
            step = Transform(name="RandomHorizontalFlip", arguments={"p": 1.0}, takes=takes)
            if takes == "array":
                step = Transform(factory="tests.benchmarks.transform:mirrored", takes=takes)
            made = per_image((step,))
            assert made
            candidates[name] = made
        other = per_image((Albumentation(name="HorizontalFlip", arguments={"p": 1.0}),))
        assert other
        candidates["Albumentation"] = other
        least = dict.fromkeys(candidates, float("inf"))
        for _ in range(ROUNDS):
            for name, act in candidates.items():
                least[name] = min(least[name], seconds(act, image, keys))
        for name, spent in least.items():
            ratio = spent / least["Albumentation"]
            print(f"{side:>4} {name:<24} {1e6 * spent:7.1f} us an image  {ratio:5.2f} x Albumentation")


def _alone(transform: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor, *_: object) -> torch.Tensor:
    return transform(tensor)


def mirrored() -> Callable[[np.ndarray], np.ndarray]:
    """A function of arrays that mirrors an image."""
    return lambda image: np.ascontiguousarray(image[:, ::-1])


if __name__ == "__main__":
    main()
