"""Weights of one task into a network for another: head replaced, first convolution and positions adapted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from core.models.weights import few, load_weights

POSITIONS = "encoder.pos_embedding"
WRAPPERS = ("module.", "model.", "_orig_mod.", "body.")  # what others, and ArcFace, put before every name


@dataclass(frozen=True)
class Adapted:
    """Names of weights: as they came; drawn, for other classes; changed to fit (with how); without a place here."""

    loaded: tuple[str, ...]
    replaced: tuple[str, ...]
    adapted: tuple[str, ...]
    ignored: tuple[str, ...]

    def told(self) -> str:
        """One line for people."""
        parts = {"replaced": self.replaced, "adapted": self.adapted, "ignored": self.ignored}
        named = [f"{len(names)} {what} ({few(names)})" for what, names in parts.items() if names]
        return ", ".join([f"{len(self.loaded)} loaded", *named])


def adapt(network: nn.Module, weights: Mapping[str, torch.Tensor], classes: int, same: bool, source: str) -> Adapted:
    """Load `weights` as far as they fit; what came of each.

    The head keeps its own where the classes are others (same is False) or not as many. A first convolution of other
    channels gets the old one's: see `to_channels`. Position embeddings of a vision transformer are interpolated
    (Dosovitskiy et al. 2021, section 3.2). Raises UserError for anything else that is missing or of another shape; the
    network is then unchanged.
    """
    own = network.state_dict()
    given = _unwrapped(weights, own)
    head, first = head_of(network), _first(network)
    replaced, adapted, final = [], [], {}
    for name, tensor in own.items():
        found = given.get(name)
        in_head = name.rpartition(".")[0] == head
        if (in_head and (found is None or not same)) or (
            found is not None and _of_other_classes(found, tensor, classes)
        ):
            replaced.append(name)
            final[name] = tensor
        elif found is None:
            if name.endswith("num_batches_tracked"):  # files of old torchvision count none
                final[name] = tensor
        elif name == first and found.shape[2:] == tensor.shape[2:] and found.shape[1] != tensor.shape[1]:
            adapted.append(f"{name}: {found.shape[1]} to {tensor.shape[1]} channels")
            final[name] = to_channels(found, tensor.shape[1])
        elif name == POSITIONS and found.shape != tensor.shape and hasattr(network, "patch_size"):
            adapted.append(f"{name}: {found.shape[1]} to {tensor.shape[1]} positions")
            final[name] = _positions(network, found)
        else:
            final[name] = found
    load_weights(network, final, source)
    drawn = {*replaced, *(text.partition(":")[0] for text in adapted)}
    loaded = tuple(name for name in own if name not in drawn)
    return Adapted(loaded, tuple(replaced), tuple(adapted), tuple(name for name in given if name not in own))


def to_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """[out, in, h, w] -> [out, channels, h, w], so that channels which are all alike give what they gave before.

    More: repeated in turn, times in / channels, as Carreira and Zisserman (2017, section 2.4) inflate filters; fewer:
    their sum, shared out, as timm does for gray images.
    """
    before = weight.shape[1]
    if channels < before:
        return weight.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
    return weight.repeat(1, -(-channels // before), 1, 1)[:, :channels] * (before / channels)


def head_of(network: nn.Module) -> str:
    """The name of the layer that gives the logits: the last linear layer or convolution."""
    layers = [name for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else ""


def _first(network: nn.Module) -> str:
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return f"{convolutions[0]}.weight" if convolutions else ""


def _of_other_classes(found: torch.Tensor, own: torch.Tensor, classes: int) -> bool:
    """As in the auxiliary heads of GoogLeNet and Inception."""
    return own.dim() > 0 and own.shape[0] == classes != found.shape[0] and found.shape[1:] == own.shape[1:]


def _positions(network: nn.Module, found: torch.Tensor) -> torch.Tensor:
    from torchvision.models.vision_transformer import interpolate_embeddings

    size, patch = int(network.image_size), int(network.patch_size)  # type: ignore[arg-type]
    resized: torch.Tensor = interpolate_embeddings(size, patch, OrderedDict({POSITIONS: found}))[POSITIONS]
    return resized


def _unwrapped(weights: Mapping[str, torch.Tensor], own: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The weights without a prefix that a program put before all their names."""

    def stripped(prefixes: Sequence[str]) -> dict[str, torch.Tensor]:
        return {next((n.removeprefix(p) for p in prefixes if n.startswith(p)), n): t for n, t in weights.items()}

    choices = [dict(weights), *(stripped([prefix]) for prefix in WRAPPERS), stripped(["model.module."])]
    return max(choices, key=lambda named: len(named.keys() & own.keys()))
