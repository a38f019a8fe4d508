"""Structured pruning: whole channels are removed by torch-pruning, and the result is checked before it is trained."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from core.common.extras import library
from core.common.text import few
from core.models.inspection import evaluation_mode, matching, within
from core.models.narrow import narrow
from core.models.prune import Prune
from core.models.transfer import head_of
from core.models.weights import NARROWED

MOST = 0.9  # share of the channels of one layer that a comparison over all layers may remove


def prune_channels(network: nn.Module, declared: Prune, image_shape: tuple[int, int, int]) -> nn.Module:
    """Remove channels of the network, in place, and return it.

    The importance of a channel is the 2-norm of all weights that go with it (Fang et al. 2023, section 3.3). Compared
    over all layers, no layer loses more than MOST of its channels, or the declared amount if that is more.

    Raises ValueError, which names the layer where it is known, if torch-pruning cannot follow the network, if nothing
    can be removed, or if the smaller network could not be rebuilt from its weights. Raises UserError if torch-pruning
    cannot be imported.
    """
    torch_pruning = library("torch_pruning", "compress", "prune: structured")
    before = copy.deepcopy(network)
    height, width, channels = image_shape
    images = torch.zeros(1, channels, height, width)
    kept = within(matching(network, declared.skip, "prune.skip").values()) | {network.get_submodule(head_of(network))}
    with evaluation_mode(network), torch.enable_grad(), warnings.catch_warnings(action="ignore"):
        with _located(network, "cannot be pruned: torch-pruning failed"):
            torch_pruning.pruner.BasePruner(
                network,
                images,
                importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
                global_pruning=declared.scope == "global",
                pruning_ratio=declared.amount,
                max_pruning_ratio=max(MOST, declared.amount) if declared.scope == "global" else 1.0,
                ignored_layers=list(kept),
            ).step()
        with _located(network, "does not fit together after torch-pruning has removed channels"), torch.no_grad():
            expected = network(images)
    if _size(network) == _size(before):
        raise ValueError(
            "prune: no channel was removed; raise prune.amount, skip fewer modules, or use --prune.how unstructured"
        )
    for name, parameter in before.named_parameters():  # torch-pruning makes new ones, which are all trained
        network.get_parameter(name).requires_grad_(parameter.requires_grad)
    _refuse_unlike(before, network, images, expected)
    vars(network)[NARROWED] = True
    return network


def _refuse_unlike(before: nn.Module, network: nn.Module, images: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise ValueError if `narrow` does not make the pruned network of the network before."""
    weights = network.state_dict()
    narrow(before, weights)
    unlike = [n for n, t in before.state_dict().items() if n not in weights or weights[n].shape != t.shape]
    if unlike:
        layers = list(dict.fromkeys(f"{name} ({_kind(before, name)})" for name in unlike))
        raise ValueError(
            f"prune: structured pruning supports convolutions, linear layers and their normalization, not "
            f"{few(layers)}; name what is around it in prune.skip, or use --prune.how unstructured"
        )
    before.load_state_dict(weights)
    with evaluation_mode(before), torch.no_grad(), _located(before, "cannot be rebuilt from its pruned weights"):
        found = before(images)
    if not torch.allclose(found, expected, 1e-4, 1e-4):
        raise ValueError("prune: the network cannot be rebuilt from its pruned weights; use --prune.how unstructured")


def _kind(network: nn.Module, name: str) -> str:
    return type(network.get_submodule(name.rpartition(".")[0])).__name__


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def _located(network: nn.Module, what: str) -> Iterator[None]:
    """Turn an error of the body into a ValueError that names the innermost layer or operator that it came from."""
    try:
        yield
    except Exception as error:  # of torch-pruning or torch, of many types
        names = {module: name for name, module in network.named_modules() if name}
        places = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
        modules = [place["self"] for place in places if isinstance(place.get("self"), nn.Module)]
        layers = [names[module] for module in modules if module in names]
        # torch-pruning calls the nodes of its graph so, and operators without a module are nodes, too
        operators = [place["node"].name.removesuffix("()") for place in places if hasattr(place.get("node"), "name")]
        where = [f" at layer {name} ({_kind(network, f'{name}.')})" for name in layers] or [
            f" at {n}" for n in operators
        ]
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"prune: {type(network).__name__} {what}{where[-1] if where else ''}: {type(error).__name__}: {reason}; "
            "name the layer in prune.skip, or use --prune.how unstructured"
        ) from None
