"""Compression of a trained network: accuracy over seeds, size, and latency in turn, as a table in Markdown.

python -m tests.benchmarks.compress                                          digits, small CNN: a few minutes
python -m tests.benchmarks.compress --variant cifar_small --root PATH        CIFAR-10, small CNN
python -m tests.benchmarks.compress --variant cifar --root PATH --limit 5000 --epochs 6 --seeds 1   ResNet-18, reduced

For each seed, a base is trained, and each compressed network is fine-tuned from the base of its seed. What it loses
against its base is told with the 95 % t interval over seeds or, of a single seed, with the score interval over the test
images (Tango 1998). The networks of seed 0 are timed. Runs are recorded in LABBOOK_HOME.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from core import Launch, Run, train
from core.common.statistics import mean_and_interval, paired_difference
from core.inference.answers import ask, read
from core.inference.network import network_of
from core.methods import Distill
from core.metrics.answers import Answers
from core.models.footprint import latencies
from core.models.weights import serialized
from core.runs.recorder import RunInfo
from experiments.compress import EXPERIMENT, FURTHER, VARIANTS

FEWEST, MOST, SECONDS = 5, 200, 60.0  # rounds of timing: as many as fit into the seconds
HALF_PRECISION = {"base in bf16": "bf16", "base in fp16": "fp16"}  # the latter takes minutes on CIFAR-10


def main() -> None:
    """Train, time, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=("cifar", "cifar_small"), help="CIFAR-10 in place of digits")
    parser.add_argument("--root", type=Path, metavar="PATH", help="CIFAR-10's images")
    parser.add_argument("--limit", type=int, help="number of images per split")
    parser.add_argument("--epochs", type=int, help="epochs of the base; fine-tuning takes half as many")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of training; networks are timed with one")
    given = parser.parse_args()
    launch = Launch(mlflow=False, threads=given.threads, device="cpu", root=given.root)
    runs = [_trained(seed, given, launch) for seed in range(given.seeds)]
    right = {name: [_right(read(found[name], "test")) for found in runs] for name in runs[0]}
    networks = {name: run.model for name, run in runs[0].items()}
    for name, precision in HALF_PRECISION.items():
        if given.variant and precision == "fp16":
            continue
        right[name] = [_right_in(found["base"], precision) for found in runs]
        networks[name] = network_of(runs[0]["base"], "cpu", precision).model
    torch.set_num_threads(1)
    _show(right, networks, tuple(runs[0]["base"].record["data"]["image_shape"]), given.seeds)


def _trained(seed: int, given: argparse.Namespace, launch: Launch) -> dict[str, Run]:
    """Name of each setting -> its run with this seed."""
    start = EXPERIMENT.but(VARIANTS[given.variant] if given.variant else {}).but({"seed": seed, "limit": given.limit})
    base = train(start.but({"epochs": given.epochs or start.epochs}), launch, RunInfo("compress", title="base"))
    settings: dict[str, dict[str, Any]] = {name: VARIANTS[name] for name in VARIANTS if "cifar" not in name}
    settings["half, distilled"] = settings["half"] | {"method": Distill(teacher=base.id)}
    found = {"base": base}
    for name, changes in settings.items():
        tuned = start.but(changes | {"model.weights": base.id})
        tuned = tuned.but(_shortened(given.epochs, changes)) if given.epochs else tuned
        found[name] = train(tuned, launch, RunInfo("compress", title=name))
    return found


def _shortened(epochs: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Half of the epochs, and pruning that is complete after the same share of them."""
    tuned = max(2, epochs // 2)
    prune = changes.get("prune")
    end = max(1, tuned * 8 // FURTHER["epochs"])
    return {"epochs": tuned} | ({"prune.end_epoch": end} if prune and prune.how == "unstructured" else {})


def _right(answers: Answers) -> np.ndarray:
    """Whether each test image is right, bool [n]."""
    return np.asarray(answers.predicted == answers.targets)


def _right_in(run: Run, precision: str) -> np.ndarray:
    test = run.own_splits().test
    return _right(ask(network_of(run, "cpu", precision), test, "test", tuple(run.record["data"]["classes"])))


def _lost(base: list[np.ndarray], now: list[np.ndarray]) -> str:
    """Percentage points of accuracy lost against the base, with an interval."""
    if len(base) > 1:
        mean, _, half = mean_and_interval([float(a.mean() - b.mean()) for a, b in zip(base, now, strict=True)])
        return f"{100 * mean:.2f} +- {100 * half:.2f}"
    lost, gained = int((base[0] & ~now[0]).sum()), int((now[0] & ~base[0]).sum())
    low, high = paired_difference(lost, gained, len(base[0]))
    return f"{100 * (lost - gained) / len(base[0]):.2f} ({100 * low:.2f} to {100 * high:.2f})"


def _times(networks: dict[str, nn.Module], shape: Any, batch: int) -> dict[str, list[float]]:
    one = sum(each[0] for each in latencies(networks, shape, batch, 1).values())
    return latencies(networks, shape, batch, max(FEWEST, min(MOST, int(SECONDS / one))))


def _show(right: dict[str, list[np.ndarray]], networks: dict[str, nn.Module], shape: Any, seeds: int) -> None:
    for network in networks.values():
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    times = {batch: _times(networks, shape, batch) for batch in (1, 32)}
    rounds = " and ".join(f"{len(next(iter(each.values())))} with {batch}" for batch, each in times.items())
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} thread, n = {seeds} seeds, 95 % intervals;")
    print(f"latency: median of rounds in which all networks take turns, {rounds} images\n")
    columns = ("network", "test accuracy", "points lost", "parameters", "not zero", "kB", "kB, gzip")
    columns += ("ms, 1 image", "ms, 32 images")
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for name, network in networks.items():
        accuracies = [float(each.mean()) for each in right[name]]
        mean, _, half = mean_and_interval(accuracies)
        accuracy = f"{mean:.2%}" + (f" +- {100 * half:.2f}" if len(accuracies) > 1 else "")
        parameters = sum(p.numel() for p in network.parameters())
        nonzero = sum(int(p.count_nonzero()) for p in network.parameters())
        content = serialized(network)
        sizes = f"{len(content) / 1e3:,.0f} | {len(gzip.compress(content)) / 1e3:,.0f}"
        speed = " | ".join(f"{median(times[batch][name]) * 1e3:.2f}" for batch in times)
        lost = _lost(right["base"], right[name])
        print(f"| {name} | {accuracy} | {lost} | {parameters:,} | {nonzero:,} | {sizes} | {speed} |")


if __name__ == "__main__":
    main()
