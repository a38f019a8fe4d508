"""Linear probing on cached features: if only the head is trained, features are computed once.

The features form a data set and the tail of the network, from the head on, a network of its own, which the loop trains.
The weights equal those of training through the full network up to rounding, so the cache is an option of Launch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from core.common.precision import HALVES
from core.common.terminal import tell
from core.experiment import Experiment
from core.loading.batches import Batch, Batches
from core.loading.loader import Resident
from core.methods import Forward, Supervised
from core.models.inspection import evaluation_mode
from core.models.transfer import head_of
from core.training.assemble import Assembly
from core.training.loop import Event, fit
from core.training.state import State
from core.training.step import Setup

MOST_BYTES = 2 << 30  # limit for the features of each split
ALIKE = 1e-4  # tolerance of logits that differ by rounding only


@dataclass(frozen=True)
class Features:
    """Batches whose images are features float [N, D]; tail names the modules that compute logits from them."""

    tail: tuple[str, ...]
    train: Batches
    val: Batches


class Tail(nn.Module):
    """The last modules of a network as a network that takes features float [N, D]. Modules and names are shared."""

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
    """Run `fit`; on cached features if only the head is trained and the features fit into memory."""
    features = computed(parts)
    if features is None:
        yield from fit(parts.setup, parts.state, parts.train, parts.val)
        return
    state, probe = parts.state, _probe(parts, features.tail)
    # frozen modules precede the tail; their gradients were disabled in `assemble`
    setup = replace(parts.setup, normalize=_as_they_are, frozen=None)
    for event in fit(setup, probe, features.train, features.val):
        state.step, state.seen, state.split = probe.step, probe.seen, probe.split  # everything else is shared
        yield event


def computed(parts: Assembly) -> Features | None:
    """Compute the features of train and val; None if they change during training, are too large, or do not determine
    the logits."""
    alone = parts.context.ranks == 1 and not parts.launch.deterministic_ranks
    if not (parts.launch.cache_features and only_the_head(parts.experiment) and alone):
        return None
    began = time.monotonic()
    network = parts.state.model
    tail = _tail(network, parts)
    if tail is None:
        return None
    if collector := parts.setup.collector:
        for batch in parts.val.epoch(0):  # by their pixels, which the features do not hold
            collector.identify(batch)
    found = []
    for batches in (parts.held_out(parts.images), parts.val):
        features = features_at(network, tail[0], batches, parts.setup)
        if features is None:
            return None
        found.append(features)
    count = parts.train.plan.count + parts.val.plan.count
    tell(f"computed the features of {count:,} images in {time.monotonic() - began:.1f} s")
    train, val = (_resident(batches, *each) for batches, each in zip((parts.train, parts.val), found, strict=True))
    return Features(tail, train, val)


def _probe(parts: Assembly, tail: tuple[str, ...]) -> State:
    """State for training only the tail. It shares everything that training changes with the state of the full network,
    except for the numbers `step`, `seen` and `split`."""
    setup, state = parts.setup, parts.state
    trained = nn.ModuleDict({**state.trained, "model": Tail(state.model, tail)})
    return replace(
        state,
        trained=trained,
        forward=Forward(trained, setup.method, setup.loss, state.forward.compiled),
        ema=state.ema.over(Tail(state.ema.module, tail)) if state.ema else None,
        swa=_over_tail(state.swa, tail),
    )


def _over_tail(swa: AveragedModel | None, tail: tuple[str, ...]) -> AveragedModel | None:
    """The equal average restricted to the tail. Everything before the tail is constant, and so is its average."""
    if swa is None:
        return None
    shared = Tail(swa.module, tail)
    made = AveragedModel(shared)
    made.module, made.n_averaged = shared, swa.n_averaged
    return made


def only_the_head(experiment: Experiment) -> bool:
    """Whether only the head is trained, on features that are the same at every step."""
    freeze = experiment.freeze
    all_frozen = (
        freeze is not None
        and freeze.up_to is None
        and not freeze.stages
        and freeze.from_epoch == 0
        and (freeze.unfreeze_epoch or experiment.epochs) >= experiment.epochs
    )
    changing = experiment.augment or experiment.prune or experiment.quantize or experiment.precision in HALVES
    return all_frozen and not changing and type(experiment.method) is Supervised


def _tail(network: nn.Module, parts: Assembly) -> tuple[str, ...] | None:
    """Names of the modules of the tail: the head and active dropout before it. None if they do not compute the
    logits."""
    modules = dict(network.named_modules())
    names, head, frozen = list(modules), head_of(network), set(parts.setup.frozen.modules if parts.setup.frozen else ())
    dropping = [n for n in names[: names.index(head)] if isinstance(modules[n], nn.Dropout) and n not in frozen]
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


def features_at(
    network: nn.Module, at: str, batches: Batches, setup: Setup
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(input of module `at`, float [N, D]; targets int64 [N]) of a split in order; None if larger than MOST_BYTES."""
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
    """Context manager that collects the inputs of a module, before its other forward pre-hooks run."""

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
