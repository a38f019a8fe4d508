"""The head trained on features computed once, where nothing before it changes: a linear probe, cheaply.

The features are a data set, the end of the network from the head on is a network of its own, and the loop trains the
one on the other. It gives the same weights as training through the whole network, but for rounding: so it is a matter
of Launch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from core.common.terminal import tell
from core.experiment import Experiment
from core.loading.batches import Batch, Batches, Resident
from core.methods import Forward, Supervised
from core.models.inspection import evaluation_mode
from core.models.transfer import head_of
from core.training.assemble import Assembly
from core.training.loop import Event, fit
from core.training.state import State
from core.training.step import Setup

MOST_BYTES = 2 << 30  # of the features of train and val
ALIKE = 1e-4  # of logits: what only rounding tells apart


@dataclass(frozen=True)
class Features:
    """Batches whose images are features float [N, D], and the names of the modules that take them to the logits."""

    tail: tuple[str, ...]
    train: Batches
    val: Batches


class Tail(nn.Module):
    """The last modules of a network as a network of features float [N, D], shared with it and under the same names."""

    def __init__(self, network: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.names = names
        for name in names:
            place: nn.Module = self
            *path, last = name.split(".")
            for step in path:
                if step not in dict(place.named_children()):
                    place.add_module(step, nn.Module())
                place = place.get_submodule(step)
            place.add_module(last, network.get_submodule(name))

    def forward(self, features: torch.Tensor) -> Any:
        for name in self.names:
            features = self.get_submodule(name)(features)
        return features


def fit_cached(parts: Assembly) -> Iterator[Event]:
    """As `fit` of the assembly; on features, where nothing but the head ever moves and they can be kept."""
    features = computed(parts)
    if features is None:
        yield from fit(parts.setup, parts.state, parts.train, parts.val)
        return
    state, probe = parts.state, _probe(parts, features.tail)
    # what is frozen lies before the tail and has no gradient since the assembly
    setup = replace(parts.setup, normalize=_as_they_are, frozen=None)
    for event in fit(setup, probe, features.train, features.val):
        state.step, state.seen = probe.step, probe.seen  # all else is shared
        yield event


def computed(parts: Assembly) -> Features | None:
    """The features of train and val; None where they change, are too many, or do not alone decide the logits."""
    if not (parts.launch.cache_features and only_the_head(parts.experiment) and parts.context.ranks == 1):
        return None
    began = time.monotonic()
    network = parts.state.model
    tail = _tail(network, parts)
    if tail is None:
        return None
    found = []
    for batches in (parts.held_out(parts.images), parts.val):
        features = _features(network, tail[0], batches, parts.setup)
        if features is None:
            return None
        found.append(features)
    tell(f"features of {parts.train.plan.count:,} + {parts.val.plan.count:,} images: {time.monotonic() - began:.1f} s")
    train, val = (_resident(batches, *each) for batches, each in zip((parts.train, parts.val), found, strict=True))
    return Features(tail, train, val)


def _probe(parts: Assembly, tail: tuple[str, ...]) -> State:
    """The state of training the tail alone. All that training changes it shares with the state of the whole network,
    except for `step` and `seen`, which are numbers."""
    setup, state = parts.setup, parts.state
    trained = nn.ModuleDict({**state.trained, "model": Tail(state.model, tail)})
    return replace(
        state,
        trained=trained,
        forward=Forward(trained, setup.method, setup.loss),
        ema=_average_of(state.ema, tail),
        swa=_average_of(state.swa, tail),
    )


def _average_of(average: AveragedModel | None, tail: tuple[str, ...]) -> AveragedModel | None:
    """The same average of the tail alone. What lies before it is constant, and so is its average."""
    if average is None:
        return None
    shared = Tail(average.module, tail)
    made = AveragedModel(shared, multi_avg_fn=average.multi_avg_fn)
    made.module, made.n_averaged = shared, average.n_averaged
    return made


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
    with _caught(modules[tail[0]]) as kept, evaluation_mode(network), parts.setup.precision(), torch.no_grad():
        logits = network(batch.images)
        features = kept[-1] if kept else logits
        if features.ndim != 2 or len(features) != len(logits):
            return None
        again = Tail(network, tail)(features)
    same = again.shape == logits.shape and torch.allclose(again, logits, ALIKE, ALIKE)
    return tail if same else None


def _features(network: nn.Module, at: str, batches: Batches, setup: Setup) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(what goes into that module, float [N, D]; targets int64 [N]) of a split in order; None where it is too much."""
    features, targets = [], []
    with _caught(network.get_submodule(at)) as kept, evaluation_mode(network), setup.precision(), torch.no_grad():
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


def _as_they_are(batch: Batch) -> Batch:
    return batch
