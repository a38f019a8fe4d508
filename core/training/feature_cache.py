"""The head trained on features computed once, where nothing before it changes: a linear probe, cheaply.

It gives the same weights as training through the standing network, but for rounding: so it is a matter of Launch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from core.common.terminal import tell
from core.experiment import Experiment
from core.launch import Launch
from core.loading.batches import Batch, Batches, Resident
from core.methods import Supervised
from core.models.transfer import head_of
from core.training.assemble import Assembly
from core.training.step import Setup

MOST_BYTES = 2 << 30  # of the features of train and val
ALIKE = 1e-4  # of logits: what only rounding tells apart


@dataclass(frozen=True)
class Fed:
    """What `fit` works with."""

    setup: Setup
    train: Batches
    val: Batches


def fed(experiment: Experiment, launch: Launch, parts: Assembly) -> Fed:
    """The assembly's own batches; or features in the place of their images, where nothing but the head ever moves.

    The networks of the state then take features float [N, D] as well as images, which testing and reports go on to
    give them.
    """
    setup, state = parts.setup, parts.state
    whole = Fed(setup, parts.train, parts.val)
    if not (launch.cache_features and only_the_head(experiment) and parts.context.ranks == 1):
        return whole
    began = time.monotonic()
    tail = _tail(state.model, parts)
    if tail is None:
        return whole
    found = []
    for batches in (parts.held_out(parts.images), parts.val):
        computed = _features(state.model, tail[0], batches, setup)
        if computed is None:
            return whole
        found.append(computed)
    for network in (state.model, *(average.module for average in (state.ema, state.swa) if average)):
        network.forward = partial(_through, network, tail)
    tell(f"features of {parts.train.plan.count:,} + {parts.val.plan.count:,} images: {time.monotonic() - began:.1f} s")
    train, val = (_resident(batches, *each) for batches, each in zip((parts.train, parts.val), found, strict=True))
    return Fed(replace(setup, normalize=_as_they_are), train, val)


def only_the_head(experiment: Experiment) -> bool:
    """Whether an image gives the head the same features at every step."""
    freeze = experiment.freeze
    stands = (
        freeze is not None
        and freeze.up_to is None
        and (freeze.unfreeze_epoch or experiment.epochs) >= experiment.epochs
    )
    return stands and not experiment.augment and type(experiment.method) is Supervised


def _tail(network: nn.Module, parts: Assembly) -> tuple[str, ...] | None:
    """Names of the last modules that run, dropout before the head among them; None where the logits are not theirs."""
    modules = dict(network.named_modules())
    names, head, still = list(modules), head_of(network), set(parts.setup.frozen.modules if parts.setup.frozen else ())
    dropping = [n for n in names[: names.index(head)] if isinstance(modules[n], nn.Dropout) and n not in still]
    tail = (*dropping, head)
    batch = parts.setup.normalize(next(iter(parts.val.epoch(0))))
    with _caught(modules[tail[0]]) as kept, _evaluated(network), parts.setup.precision(), torch.no_grad():
        logits = network(batch.images)
        features = kept[-1] if kept else logits
        if features.ndim != 2 or len(features) != len(logits):
            return None
        again = _through(network, tail, features)
    same = again.shape == logits.shape and torch.allclose(again, logits, ALIKE, ALIKE)
    return tail if same else None


def _features(network: nn.Module, at: str, batches: Batches, setup: Setup) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(what goes into that module, float [N, D]; targets int64 [N]) of a split in order; None where it is too much."""
    features, targets = [], []
    with _caught(network.get_submodule(at)) as kept, _evaluated(network), setup.precision(), torch.no_grad():
        for batch in batches.epoch(0):
            kept.clear()
            network(setup.normalize(batch).images)
            features.append(kept[0])
            targets.append(batch.targets)
            if kept[0][0].nbytes * batches.plan.count > MOST_BYTES:
                return None
    return torch.cat(features), torch.cat(targets)


def _resident(batches: Batches, features: torch.Tensor, targets: torch.Tensor) -> Resident:
    return Resident(batches.plan, features, torch.arange(len(features), device=features.device), targets)


class _caught:
    """Collects what goes into a module, before anything that is done to it there."""

    def __init__(self, module: nn.Module):
        self.kept: list[torch.Tensor] = []
        self.handle = module.register_forward_pre_hook(self._look, prepend=True)

    def _look(self, module: nn.Module, inputs: Any) -> None:
        self.kept.append(inputs[0])

    def __enter__(self) -> list[torch.Tensor]:
        return self.kept

    def __exit__(self, *error: object) -> None:
        self.handle.remove()


class _evaluated:
    """The network in evaluation mode; afterwards each module in its own."""

    def __init__(self, network: nn.Module):
        self.network, self.modes = network, {module: module.training for module in network.modules()}

    def __enter__(self) -> None:
        self.network.eval()

    def __exit__(self, *error: object) -> None:
        for module, mode in self.modes.items():
            module.training = mode


def _through(network: nn.Module, tail: Iterable[str], given: torch.Tensor) -> Any:
    """The forward pass from features [N, D]; from images [N, C, H, W] as ever."""
    if given.ndim != 2:
        return type(network).forward(network, given)
    for name in tail:
        given = network.get_submodule(name)(given)
    return given


def _as_they_are(batch: Batch) -> Batch:
    return batch
