"""Networks with fewer channels than they were declared with, as structured pruning leaves them.

How many channels each layer has follows from the shapes of its weights. A file with the weights of such a network says
so in its metadata; weights of another shape in any other file are an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from core.models.transfer import first_of, head_of, unwrapped
from core.models.weights import NARROWED

MATRICES = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)


def narrow(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Take channels away from convolutions, linear layers, BatchNorm, GroupNorm and LayerNorm, until their parameters
    have the shapes of these weights. The parameters are then to be loaded.

    Layers that have fewer channels than the weights are left as they are, and so are the inputs of the first
    convolution and the outputs of the last layer, which depend on the data.
    """
    given = unwrapped(weights, network.state_dict())
    first, head = first_of(network), f"{head_of(network)}.weight"
    for name, module in network.named_modules():
        found = given.get(f"{name}.weight", given.get(f"{name}.running_mean"))
        if found is None or not isinstance(module, (*MATRICES, *NORMS)):
            continue
        outputs, *inputs = found.shape
        if isinstance(module, MATRICES):
            own_outputs, own_inputs = module.weight.shape[:2]
            outputs = own_outputs if f"{name}.weight" == head else min(outputs, own_outputs)
            width = own_inputs if f"{name}.weight" == first else min(inputs[0], own_inputs)
            _narrow_matrix(module, outputs, width)
        elif not inputs:
            _narrow_norm(module, outputs)
    vars(network)[NARROWED] = True


def _narrow_matrix(layer: Any, outputs: int, inputs: int) -> None:
    """inputs: second dimension of the weight, which a grouped convolution divides by its groups."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = outputs, inputs
    else:
        depthwise = layer.groups == layer.in_channels and layer.groups > 1
        if depthwise:
            layer.groups = outputs * layer.groups // layer.out_channels
        layer.out_channels, layer.in_channels = outputs, inputs * layer.groups
    _shrink(layer, "weight", (outputs, inputs, *layer.weight.shape[2:]))
    _shrink(layer, "bias", (outputs,))


def _narrow_norm(layer: Any, channels: int) -> None:
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (*layer.normalized_shape[:-1], channels)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = channels
    else:
        layer.num_features = channels
    for name in ("weight", "bias", "running_mean", "running_var"):
        _shrink(layer, name, (channels,))


def _shrink(layer: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Cut a parameter or buffer down to a shape of at most its own."""
    tensor = getattr(layer, name, None)
    if tensor is None or tensor.shape == shape:
        return
    cut = tensor.detach()[tuple(map(slice, shape))].clone()
    setattr(layer, name, nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut)
