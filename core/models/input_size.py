"""Adapts a network to the shape of the images and the number of classes, and checks that it supports the image size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from core.context import Context

Make = Callable[[tuple[int, int, int], int], nn.Module]


def fitted(name: str, make: Make, context: Context) -> nn.Module:
    """make((height, width, channels), classes), with the first convolution adapted to the channels of the images.

    A forward pass on torch's meta device, without memory, first checks that the network supports the image size.
    Raises ValueError with the minimum image size if it does not.
    """
    height, width, channels = context.image_shape
    classes = len(context.classes)
    if reason := refusal(make, context.image_shape, classes):
        smallest = smallest_side(make, channels, classes)
        advice = f"the minimum size is {smallest}x{smallest}" if smallest else "use another network"
        raise ValueError(f"model: {name} does not support images of {height}x{width}x{channels}: {reason}; {advice}")
    network = make(context.image_shape, classes)
    match_channels(network, channels)
    return network


def refusal(make: Make, shape: tuple[int, int, int], classes: int) -> str:
    """The reason why a network cannot be trained on images of this shape; an empty string if it can."""
    height, width, channels = shape
    try:
        try:
            with torch.device("meta"):
                network = make(shape, classes)
        except NotImplementedError:  # RegNet computes its widths with tensors
            network = make(shape, classes).to("meta")
        with torch.device("meta"), torch.no_grad():
            match_channels(network, channels)
            network.train()(torch.zeros(2, channels, height, width))
    except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ""


def smallest_side(make: Make, channels: int, classes: int) -> int | None:
    """The side length of the smallest square image that the network supports, or None if none is found.

    Candidate sides are tried first, for networks that require multiples of a patch size; bisection below the first one
    that fits then finds the minimum of networks that support every larger size.
    """
    sides = sorted([8 << i for i in range(8)] + [14 << i for i in range(6)])
    side = next((side for side in sides if not refusal(make, (side, side, channels), classes)), None)
    below = max((other for other in sides if side and other < side), default=0)
    while side and side - below > 1:
        middle = (side + below) // 2
        if refusal(make, (middle, middle, channels), classes):
            below = middle
        else:
            side = middle
    return side


def match_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution by one with this number of input channels, if it has another.

    Its weights are normal, with the standard deviation of the old weights times sqrt(old channels / new channels), so
    that the scale of the outputs is preserved.
    """
    name, first = next((name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    if first.in_channels == channels:
        return
    new = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    with torch.no_grad():
        spread = 1.0 if first.weight.is_meta else float(first.weight.std())
        new.weight.normal_(std=spread * (first.in_channels / channels) ** 0.5)
        if new.bias is not None and first.bias is not None:
            new.bias.copy_(first.bias)
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, new)


def last_linear(network: nn.Module) -> nn.Linear:
    """The last linear layer of the network, which computes the logits."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
