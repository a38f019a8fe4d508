"""A linear probe on features computed once, against the same through the standing network: CPU time, in turn.

python -m tests.benchmarks.probe
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Images, Splits
from core.models import ResNet
from core.models.freeze import Freeze
from core.optimizers import SGD
from core.training.assemble import assemble
from core.training.feature_cache import fit_cached
from data import Digits
from tests.benchmarks.common import in_turn, show

EPOCHS, TRAIN, VAL, ROUNDS = 10, 512, 128, 3


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    show(
        f"{EPOCHS} epochs of {TRAIN} + {VAL} images of 32x32, ResNet-18, the head alone",
        in_turn({"features computed once": _seconds(True), "through the network": _seconds(False)}, ROUNDS),
        "through the network",
        "CPU s",
    )


def _seconds(cached: bool) -> Callable[[], float]:
    pixels = np.random.default_rng(0).integers(0, 256, (TRAIN + VAL, 32, 32, 3)).astype(np.uint8)
    images = Images(pixels, np.arange(len(pixels)), np.arange(len(pixels)) % 10)
    train, val = images.take(np.arange(TRAIN)), images.take(np.arange(TRAIN, TRAIN + VAL))
    splits = Splits("noise", tuple(map(str, range(10))), train, val, val, "", "made up")
    declared = Experiment(
        data=Digits(), model=ResNet(), optimizer=SGD(), freeze=Freeze(), epochs=EPOCHS, batch_size=128, precision="fp32"
    )

    def measure() -> float:
        launch = Launch(cache_features=cached, device="cpu")
        parts = assemble(declared, splits, launch)
        began = time.process_time()
        for _ in fit_cached(parts):
            pass
        return time.process_time() - began

    return measure


if __name__ == "__main__":
    main()
