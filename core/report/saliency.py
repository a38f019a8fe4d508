"""Class activation maps of networks with a spatial feature map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from core.models.inspection import hooked


def activation_maps(model: nn.Module, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor | None:
    """Returns maps float [N, H, W] in 0..1 of how much each location contributes to the class, or None.

    The method is HiResCAM (Draelos and Carin 2020, section 3.2): the gradient times the activation at each location. If
    the network ends in global average pooling, as most CNNs do, it is equal to Grad-CAM (Selvaraju et al. 2017). It is
    applied to the last layer with several locations and a gradient at more than one of them: the last feature map of a
    CNN, or the normalized input of a transformer's last attention. Networks without such a layer (an MLP) have no maps.

    images: normalized, float [N, C, H, W].  classes: int64 [N].
    """
    with torch.enable_grad(), _outputs(model, len(images)) as seen:
        logits = model(images.detach().clone().requires_grad_())
        layers = [output for output in seen if output.requires_grad and as_map(output) is not None]
        if not layers:
            return None
        score = logits.float().gather(1, classes[:, None]).sum()
        gradients = torch.autograd.grad(score, layers, allow_unused=True)
    for output, gradient in zip(reversed(layers), reversed(gradients), strict=True):
        if gradient is not None and (slopes := as_map(gradient)) is not None and _is_spread(slopes):
            values = as_map(output)
            assert values is not None
            raw = (slopes * values).sum(dim=1, keepdim=True).relu().detach().float()
            wide = F.interpolate(raw, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
            return wide / wide.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return None


def as_map(output: torch.Tensor) -> torch.Tensor | None:
    """Returns the output of a layer as a map float [N, C, h, w]; None if it has no spatial locations.

    output: [N, C, h, w], or tokens [N, h * w, C], which a class token may precede.
    """
    if output.dim() == 4 and min(output.shape[2:]) > 1:
        return output
    if output.dim() == 3:
        side = math.isqrt(output.shape[1])
        extra = output.shape[1] - side**2
        if side > 1 and extra <= 1:  # with more than one class token, the size of the grid is ambiguous
            places: torch.Tensor = output[:, extra:].transpose(1, 2).unflatten(2, (side, side))
            return places
    return None


def _is_spread(gradient: torch.Tensor) -> bool:
    """Whether every image has a gradient at more than one location: after the last attention, a transformer uses only
    the class token."""
    return bool(((gradient.abs().sum(dim=1) > 0).sum(dim=(1, 2)) > 1).all())


@contextmanager
def _outputs(model: nn.Module, count: int) -> Iterator[list[torch.Tensor]]:
    """Context manager: the list of outputs of all modules for `count` images, in the order of computation."""
    seen: list[torch.Tensor] = []

    def note(name: str, module: nn.Module, output: Any) -> Any:
        if isinstance(output, torch.Tensor) and output.dim() in (3, 4) and len(output) == count:
            # the next layer gets a copy, because it may work in place and would change the recorded output
            seen.append(output)
            return output.clone()
        return None

    with hooked(model.named_modules(), note):
        yield seen
