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


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def serialized(model: nn.Module) -> bytes:
    """Returns all parameters and buffers in the format of safetensors."""
    import torch
    from safetensors.torch import save

    # copies, because tied weights share memory, which safetensors does not support
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    return save(tensors, {NARROWED: "true"} if is_narrowed(model) else None)


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
