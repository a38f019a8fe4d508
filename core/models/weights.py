"""Loading and saving of state dicts, with errors that name the parameters that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from core.common.errors import UserError
from core.common.text import few

if TYPE_CHECKING:
    from torch import nn

ORIGINAL = "original"  # the part of a parametrized weight that was there before
NARROWED = "narrowed"  # attribute of a network, and key in the metadata of a file; see core/models/narrow.py


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], source: str) -> None:
    """Load a state dict that must match the network exactly.  source: its origin, for messages.

    Raises UserError, with one line each for missing and unexpected parameters and for those of another shape; the
    network is then unchanged.
    """
    expected = network.state_dict()
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    shapes = [
        f"{name} {_shape(weights[name])}, not {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    of = f"of {len(expected)} weights of {type(network).__name__}"
    lines = [f"{source}: {len(names)} {what} ({of}): {few(names)}" for what, names in found.items() if names]
    if lines:
        raise UserError(lines)
    network.load_state_dict(weights)


def merged(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a network. Of layers adapted by LoRA (core/models/lora.py), it has the weights that they
    compute with, under the names of the plain network."""
    found = {}
    for name, tensor in network.state_dict().items():
        plain, part = _plain(name)
        layer, _, weight = plain.rpartition(".")
        if part == ORIGINAL:
            found[plain] = getattr(network.get_submodule(layer), weight)
        elif not part:
            found[name] = tensor
    return found


def unmerged(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict, of the plain network where layers are adapted by LoRA, with the names of this network. What LoRA
    adds is zero, so that the layers compute with the given weights, to the bit."""
    found = dict(weights)
    for name, tensor in network.state_dict().items():
        plain, part = _plain(name)
        if part == ORIGINAL and plain in weights:
            found[name] = found.pop(plain)
        elif part and part != ORIGINAL:
            found[name] = torch.zeros_like(tensor) if part.endswith("up") else tensor
    return found


def _plain(name: str) -> tuple[str, str]:
    """(name of the weight in the plain network, which part of it this is; empty for a weight that stands alone), as
    torch.nn.utils.parametrize names them."""
    layer, inside, rest = name.rpartition(".parametrizations.")
    weight, _, part = rest.partition(".")
    return (f"{layer}.{weight}", part) if inside else (name, "")


def half_of(path: Path, device: torch.device) -> torch.dtype | None:
    """The dtype of weights on record that are in half precision, bf16 or fp16; None if they are in fp32, or if the
    device has no kernels for them. Only the head of the file is read."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 it is no dict
    if "F16" in kinds and device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if "BF16" in kinds else None


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def serialized(model: nn.Module) -> bytes:
    """Returns all parameters and buffers in the format of safetensors, those of LoRA merged."""
    return packed(merged(model), {NARROWED: "true"} if is_narrowed(model) else None)


def packed(weights: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Returns a state dict in the format of safetensors."""
    import torch
    from safetensors.torch import save

    # copies, because tied weights share memory, which safetensors does not support
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()
    }
    return save(tensors, metadata)


def is_narrowed(network: nn.Module) -> bool:
    """Whether the network, or a network inside it, has fewer channels than it was declared with."""
    return any(NARROWED in vars(module) for module in network.modules())


def holds_narrowed(path: Path) -> bool:
    """Whether a file of weights says that they are of a network with fewer channels than it was declared with."""
    if path.suffix != ".safetensors":
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return NARROWED in (file.metadata() or {})
    except (OSError, SafetensorError):  # reported where the weights are read
        return False
