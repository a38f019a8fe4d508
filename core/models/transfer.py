"""Transfer learning: loads pretrained weights into a network with another head, channels or position embeddings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from core.common.errors import UserError
from core.common.text import few
from core.models.weights import load_weights

POSITIONS = "encoder.pos_embedding"


@dataclass(frozen=True)
class Adapted:
    """Names of parameters by what happened to them.

    loaded: unchanged.  replaced: newly initialized, because the classes differ.  adapted: converted to the shape of the
    network, with a note.  ignored: not in the network.
    """

    loaded: tuple[str, ...]
    replaced: tuple[str, ...]
    adapted: tuple[str, ...]
    ignored: tuple[str, ...]

    def summary(self) -> str:
        """A one-line summary, such as "60 loaded, 2 replaced (fc.weight, fc.bias)"."""
        parts = {"replaced": self.replaced, "adapted": self.adapted, "ignored": self.ignored}
        named = [f"{len(names)} {what} ({few(names)})" for what, names in parts.items() if names]
        return ", ".join([f"{len(self.loaded)} loaded", *named])


def adapt(network: nn.Module, weights: Mapping[str, torch.Tensor], classes: int, same: bool, source: str) -> Adapted:
    """Load pretrained `weights` into the network, adapting them if needed; returns what happened to each parameter.

    The head keeps its initialization if the classes differ (`same` is False) or their number does. The weights of the
    first convolution are converted to another number of channels, see `to_channels`. Position embeddings of a vision
    transformer are interpolated (Dosovitskiy et al. 2021, section 3.2).

    Raises UserError if any other parameter is missing or has another shape; the network is then unchanged.
    """
    own = network.state_dict()
    given = unwrapped(weights, own)
    head, first = head_of(network), first_of(network)
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
            if name.endswith("num_batches_tracked"):  # missing in weights of old torchvision versions
                final[name] = tensor
        elif name == first and found.shape[2:] == tensor.shape[2:] and found.shape[1] != tensor.shape[1]:
            adapted.append(f"{name}: {found.shape[1]} to {tensor.shape[1]} channels")
            final[name] = to_channels(found, tensor.shape[1])
        elif name == POSITIONS and found.shape != tensor.shape and hasattr(network, "patch_size"):
            adapted.append(f"{name}: {found.shape[1]} to {tensor.shape[1]} positions")
            final[name] = _positions(network, found)
        else:
            final[name] = found
    try:
        load_weights(network, final, source)
    except UserError as error:
        raise UserError([*error.lines, f"{source}: the names in the file are {few(list(weights))}"]) from None
    changed = {*replaced, *(text.partition(":")[0] for text in adapted)}
    loaded = tuple(name for name in own if name not in changed)
    return Adapted(loaded, tuple(replaced), tuple(adapted), tuple(name for name in given if name not in own))


def to_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Convert a convolution weight [out, in, h, w] to [out, channels, h, w].

    For more channels, the weights are repeated and scaled by in / channels, as Carreira and Zisserman (2017, section
    2.4) inflate filters; for fewer, they are summed and divided by the number of channels, as timm does for grayscale.
    In both cases the output is unchanged for images whose channels are all equal.
    """
    before = weight.shape[1]
    if channels < before:
        return weight.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
    return weight.repeat(1, -(-channels // before), 1, 1)[:, :channels] * (before / channels)


def head_of(network: nn.Module) -> str:
    """The name of the layer that computes the logits: the last linear layer or convolution."""
    layers = [name for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else ""


def first_of(network: nn.Module) -> str:
    """The name of the weight of the first convolution; empty if there is none."""
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return f"{convolutions[0]}.weight" if convolutions else ""


def _of_other_classes(found: torch.Tensor, own: torch.Tensor, classes: int) -> bool:
    """Whether a parameter outside the head depends on the number of classes, as in auxiliary heads of GoogLeNet."""
    return own.dim() > 0 and own.shape[0] == classes != found.shape[0] and found.shape[1:] == own.shape[1:]


def _positions(network: nn.Module, found: torch.Tensor) -> torch.Tensor:
    from torchvision.models.vision_transformer import interpolate_embeddings

    size, patch = int(network.image_size), int(network.patch_size)  # type: ignore[arg-type]
    resized: torch.Tensor = interpolate_embeddings(size, patch, OrderedDict({POSITIONS: found}))[POSITIONS]
    return resized


def unwrapped(weights: Mapping[str, torch.Tensor], own: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """The weights without the prefix that another program has added to their names, such as `module._orig_mod.`; of
    programs that divide a network, such as mmpretrain, without `backbone.` and `head.`

    A prefix is whatever precedes the network's own names, if more of these are found with it than without.
    """
    prefixes = {given.removesuffix(name) for name in own for given in weights if given.endswith(f".{name}")}

    def stripped(prefix: str) -> dict[str, torch.Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in weights.items()}

    found = max(
        (stripped(prefix) for prefix in sorted(prefixes | {""}, key=lambda prefix: (len(prefix), prefix))),
        key=lambda named: len(named.keys() & own.keys()),
    )
    missing = own.keys() - found.keys()
    heads = {name: short for name in found if (short := name.removeprefix("head.")) in missing}
    return {heads.get(name, name): tensor for name, tensor in found.items()}
