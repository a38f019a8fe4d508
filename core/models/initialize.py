"""Weight initialization schemes: those of torch.nn.init, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from core.common.text import suggestion

Init = Literal[
    "default",
    "kaiming",
    "xavier",
    "orthogonal",
    "uniform",
    "normal",
    "trunc_normal",
    "xavier_uniform",
    "xavier_normal",
    "kaiming_uniform",
    "kaiming_normal",
]
RELU_GAIN = 2**0.5  # as nn.init.calculate_gain("relu")
# (function of torch.nn.init, arguments other than its defaults) where the name alone does not say it
DECLARED: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "kaiming": ("kaiming_normal", {"nonlinearity": "relu"}),
        "xavier": ("xavier_uniform", {}),
        "orthogonal": ("orthogonal", {"gain": RELU_GAIN}),
    }
)


def initialize(network: nn.Module, how: str, arguments: Mapping[str, Any] | None = None) -> None:
    """Initialize the weights of all convolution and linear layers; their biases are set to 0.

    kaiming: normal, variance 2 / fan_in (He et al. 2015, equation 10).
    xavier: uniform, variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010, equation 16).
    orthogonal: (semi-)orthogonal matrices times the ReLU gain sqrt(2) (Saxe et al. 2014, section 3).
    Other names are functions of torch.nn.init with torch's defaults.  arguments: keyword arguments of the function.
    Normalization layers, embeddings, the input projections of attention, recurrent layers, and layers that are not
    trained are not changed.
    """
    function, given = _function(how), _given(how, arguments or {})
    for module in network.modules():
        if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or not module.weight.requires_grad:
            continue
        function(module.weight, **given)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def refuse(how: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if the function does not take these arguments."""
    if how == "default":
        if arguments:
            raise ValueError("set init, too: these are arguments of a function of torch.nn.init")
        return
    taken = [name for name in inspect.signature(_function(how)).parameters if name not in ("tensor", "generator")]
    if unknown := next((name for name in arguments if name not in taken), None):
        raise ValueError(f"{how} has no {unknown}{suggestion(unknown, taken)}")
    try:
        _function(how)(torch.empty(2, 2, device="meta"), **_given(how, arguments))
    except Exception as error:  # torch.nn.init checks no types
        raise ValueError(f"{how}: {(str(error).splitlines() or [type(error).__name__])[0]}") from None


def _function(how: str) -> Any:
    return getattr(nn.init, f"{DECLARED.get(how, (how,))[0]}_")


def _given(how: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {**DECLARED.get(how, (how, {}))[1], **arguments}
