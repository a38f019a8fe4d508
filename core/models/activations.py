"""The activation functions that a declared network can use."""

from __future__ import annotations

from typing import Literal

from torch import nn

Activation = Literal["ReLU", "Tanh", "Sigmoid", "GELU", "SiLU"]
ACTIVATION_MEANING = "activation function, a class of torch.nn"


def activation_layer(name: Activation) -> nn.Module:
    """A layer that applies the activation function; in place, if it is ReLU."""
    layer: nn.Module = nn.ReLU(inplace=True) if name == "ReLU" else getattr(nn, name)()
    return layer
