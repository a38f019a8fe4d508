"""The size and speed of a network: parameters, FLOPs, and the measured latency of its forward pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from core.models.flops import forward_flops
from core.models.inspection import evaluation_mode

ROUNDS = 20


@dataclass(frozen=True)
class Footprint:
    """parameters: their number.  nonzero: how many of them are not zero.  flops: of the forward pass of one image, None
    if it cannot be counted.  latency_ms: milliseconds of the forward pass of one image, median of ROUNDS, on this
    machine."""

    parameters: int
    nonzero: int
    flops: int | None
    latency_ms: float

    def record(self) -> dict[str, Any]:
        """The entry for a run's record."""
        return asdict(self)


def footprints(networks: Mapping[str, nn.Module], shape: tuple[int, int, int]) -> dict[str, Footprint]:
    """Footprints of networks for one image of shape (height, width, channels). Their forward passes are timed in turn,
    so that other work of the machine affects all of them alike."""
    times = latencies(networks, shape)
    return {
        name: Footprint(
            sum(p.numel() for p in network.parameters()),
            sum(int(p.count_nonzero()) for p in network.parameters()),
            forward_flops(network, shape),
            median(times[name]) * 1e3,
        )
        for name, network in networks.items()
    }


@torch.inference_mode()
def latencies(
    networks: Mapping[str, nn.Module], shape: tuple[int, int, int], batch: int = 1, rounds: int = ROUNDS
) -> dict[str, list[float]]:
    """Seconds of the forward pass of `batch` images for each network, `rounds` times in turn, after one round that is
    not counted."""
    height, width, channels = shape
    times: dict[str, list[float]] = {name: [] for name in networks}
    with evaluation_mode(*networks.values()):
        for number in range(rounds + 1):
            for name, network in networks.items():
                weight = next(network.parameters())
                images = torch.zeros(batch, channels, height, width, device=weight.device, dtype=weight.dtype)
                images = images.to(memory_format=torch.channels_last)
                _wait(weight.device)
                began = time.perf_counter()
                network(images)
                _wait(weight.device)
                times[name] += [time.perf_counter() - began] if number else []
    return times


def _wait(device: torch.device) -> None:
    """Wait for everything that a device other than the CPU has been given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
