"""CPU time of a step of one seed, trained together with others (`--seeds N --together`) and alone.

    python -m tests.benchmarks.fleet

`fit_together` of 8 and of 32 seeds against `fit` of one, one thread, training steps alone: an MLP 192-32-10 on random
images in batches of 128, the same with dropout, wider MLPs, and small CNNs on the digits in batches of 64. The last
column of the head of each table, FLOPs per image, is what the advice of `--together` goes by.
"""

import itertools
import time

import torch

from core.experiment import Experiment
from core.launch import Launch
from core.models import MLP, SmallCNN, forward_flops
from core.optimizers import SGD
from core.training.assemble import assemble
from core.training.fleet import fit_together
from core.training.loop import fit
from core.training.runtime import keep_freed_memory
from data import Digits
from tests.benchmarks.common import in_turn, show
from tests.benchmarks.loop import EXPERIMENT, Noise

ROUNDS = 5
DIGITS = Experiment(data=Digits(), model=SmallCNN(), optimizer=SGD(lr=0.05), epochs=100, batch_size=64)
NETWORKS = {  # name: (declaration, steps of each measurement)
    "MLP 192-32-10": (EXPERIMENT, 40),
    "MLP 192-32-10, dropout": (EXPERIMENT.but({"model.dropout": 0.2}), 40),
    "MLP 192-256-10": (EXPERIMENT.but({"model": MLP(hidden=(256,))}), 20),
    "MLP 192-1024-1024-10": (EXPERIMENT.but({"model": MLP(hidden=(1024, 1024))}), 4),
    "SmallCNN 4-8, digits": (DIGITS.but({"model": SmallCNN(widths=(4, 8))}), 20),
    "SmallCNN 8-16, digits": (DIGITS.but({"model": SmallCNN(widths=(8, 16))}), 10),
    "SmallCNN 32-64, digits": (DIGITS, 4),
}


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a run
    loaded = {Noise: Noise().load(), Digits: Digits().load(None)}
    for name, (experiment, steps) in NETWORKS.items():
        splits = loaded[type(experiment.data)]

        def built(seed: int, experiment: Experiment = experiment, splits=splits):
            return assemble(experiment.but({"seed": seed}), splits, Launch(device="cpu"))

        def alone(steps: int = steps, built=built) -> float:
            parts = built(0)
            return timed(fit(parts.setup, parts.state, parts.train, parts.val), 4 * steps)

        def together(count: int, steps: int = steps, built=built) -> float:
            return timed(fit_together({seed: built(seed) for seed in range(count)}), steps) / count

        figures = in_turn({"alone": alone} | {f"{n} together": (lambda n=n: together(n)) for n in (8, 32)}, ROUNDS)
        parts = built(0)
        flops = forward_flops(parts.state.model, parts.context.image_shape)
        show(f"a step of one seed, {name}, {flops:,} FLOPs per image", figures, "alone", "us of CPU", 1e6)


def timed(events, steps: int) -> float:
    """CPU time of a step, after two steps not counted."""
    next(events), next(events)
    began = time.process_time()
    for _ in itertools.islice(events, steps):
        pass
    return (time.process_time() - began) / steps


if __name__ == "__main__":
    main()
