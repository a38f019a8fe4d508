"""A compiled step of `fit` against the step as it is written, and after how many steps compiling has paid.

    python -m tests.benchmarks.compiled

On the fastest device: random images of 32x32, steps in turn, one after the other. On a CPU with one thread. Ratios are
medians over steps; the time of compiling is that of the first step, less with a warm cache (TORCHINDUCTOR_CACHE_DIR).
To reach on a GPU: at most 5,000 steps to pay, from which `auto` compiles.
"""

import os
import statistics
import tempfile
import time

os.environ["LABBOOK_HOME"] = tempfile.mkdtemp()

import numpy as np
import torch

from core.common.device import device_of
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.models import MLP, CifarResNet, ResNet, SmallCNN
from core.optimizers import SGD
from core.optimizers.averaging import Ema
from core.training.assemble import assemble, connect
from core.training.loop import fit

ON_A_GPU = device_of().type == "cuda"
BATCH, STEPS = (512, 200) if ON_A_GPU else (64, 12)


class Noise(Dataset):
    """Random 32x32 color images, enough for one epoch."""

    def load(self, root=None):
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (BATCH * (STEPS + 2), 32, 32, 3), dtype=np.uint8)
        images = Images(pixels, np.arange(len(pixels)), random.integers(0, 10, len(pixels)))
        few = images.take(np.arange(BATCH))
        return Splits("noise", tuple("0123456789"), images, few, few, "", "")


NETWORKS = {
    "MLP 3072-32-10": MLP(hidden=(32,)),
    "SmallCNN": SmallCNN(),
    "CifarResNet": CifarResNet(),
    "ResNet-18": ResNet(depth=18),
}


def stepping(model, compile):
    """Yield the seconds of each step."""
    experiment = Experiment(data=Noise(), model=model, optimizer=SGD(), ema=Ema(), epochs=1, batch_size=BATCH)
    parts = assemble(experiment, Noise().load(), Launch(compile=compile, log_every=10_000))
    connect(parts)
    events = fit(parts.setup, parts.state, parts.train, parts.val)
    while True:
        began = time.perf_counter()
        next(events)
        torch.cuda.synchronize() if ON_A_GPU else None
        yield time.perf_counter() - began


def main() -> None:
    if not ON_A_GPU:
        torch.set_num_threads(1)
    name = torch.cuda.get_device_name() if ON_A_GPU else "CPU, one thread"
    print(f"torch {torch.__version__}, {name}, batch {BATCH}, {STEPS} steps in turn")
    print(f"  {'':<20}{'step, ms':>12}{'compiled':>12}{'compiling, s':>15}{'steps to pay':>15}")
    for name, model in NETWORKS.items():
        pairs = zip(stepping(model, "off"), stepping(model, "on"), strict=True)
        (_, compiling), *rest = (pair for pair, _ in zip(pairs, range(STEPS + 1), strict=False))
        plain = statistics.median(one for one, _ in rest)
        ratio = statistics.median(b / a for a, b in rest)
        pays = f"{compiling / (plain * (1 - ratio)):,.0f}" if ratio < 1 else "never"
        print(f"  {name:<20}{plain * 1e3:>12.2f}{ratio:>11.2f}x{compiling:>15.1f}{pays:>15}")


if __name__ == "__main__":
    main()
