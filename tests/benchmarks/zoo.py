"""The networks of cifar_zoo: parameters, FLOPs, and a training step of each against ResNet-18's, in turn.

python -m tests.benchmarks.zoo
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from core.context import Context
from core.models import Model, forward_flops
from experiments.cifar_zoo import EXPERIMENT, VARIANTS
from tests.benchmarks.common import in_turn, show

BATCH, ROUNDS, SHAPE = 16, 3, (32, 32, 3)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    classes = tuple(map(str, range(10)))
    context = Context(classes, (1,) * 10, SHAPE, BATCH, 1, 1, BATCH, torch.device("cpu"))
    declared: dict[str, Model] = {"mobilenet": EXPERIMENT.model}
    declared |= {name: EXPERIMENT.but(changes).model for name, changes in VARIANTS.items()}
    networks = {name: model.build(context).to(memory_format=torch.channels_last) for name, model in declared.items()}
    for name, network in networks.items():
        flops = forward_flops(network, SHAPE) or 0
        print(f"{name:<14}{sum(p.numel() for p in network.parameters()):>14,} parameters {flops / 1e9:>8.2f} GFLOPs")
    figures = in_turn({name: _rate(network) for name, network in networks.items()}, ROUNDS)
    show(f"training steps of {BATCH} images", figures, "resnet18", "images/s")


def _rate(network: nn.Module) -> Callable[[], float]:
    images = torch.randn(BATCH, *SHAPE[::-1]).to(memory_format=torch.channels_last)
    targets = torch.arange(BATCH) % 10
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def measure() -> float:
        network.train()
        began = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(network(images), targets).backward()
        optimizer.step()
        return BATCH / (time.perf_counter() - began)

    return measure


if __name__ == "__main__":
    main()
