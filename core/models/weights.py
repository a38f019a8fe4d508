"""Loading and saving of state dicts, with errors that name the parameters that do not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from core.common.errors import UserError
from core.common.files import write_atomic

if TYPE_CHECKING:
    from torch import nn

MOST_NAMED = 5


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


def few(names: Sequence[str]) -> str:
    """The first names, and the number of further ones."""
    return ", ".join(names[:MOST_NAMED]) + (f", and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def save_weights(model: nn.Module, path: Path) -> None:
    """Save all parameters and buffers as a safetensors file, atomically: a failure leaves the old file."""
    import torch
    from safetensors.torch import save

    # copies, because tied weights share memory, which safetensors does not support
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    write_atomic(path, save(tensors))  # save_file does not report a full disk as such
