"""Quantize: training with weights and activations that are rounded to 8 bits, as an int8 engine will round them.

torchao is not used: its quantization-aware training covers linear layers, and its pt2e flow trains an exported program
whose train() and eval() raise an error and whose modules are gone, which freezing, averaging and saving by name need.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn

from core.declare.part import Part
from core.models.inspection import matching, within

LARGEST = 127  # of a weight in int8, which is symmetric: -127 .. 127
STEPS = 255  # between the smallest and the largest value of an activation in uint8
SMALLEST_SCALE = 1e-8


class Quantize(Part):
    """Quantization-aware training (Jacob et al. 2018, section 3) of convolutions and linear layers for int8.

    In each forward pass, weights are rounded to int8 with one scale for each output channel, from their largest
    magnitude, and the inputs of layers to uint8 with one scale and zero point for each layer, from a moving average of
    their smallest and largest values in training. Gradients pass the rounding unchanged, and are zero for inputs beyond
    the range (straight-through estimator, Bengio et al. 2013). BatchNorm is left as it is. Evaluation and predictions
    are rounded in the same way.

    Weights on record are the float weights under their usual names, and for each layer a buffer `input_range`. A
    forward pass in PyTorch stays in float, and is slower than without: an int8 engine makes it faster. Training is in
    fp32. It is meant to be used with `model.weights` of a trained run.
    """

    decay: float = Field(0.99, ge=0, lt=1, description="decay of the moving average of input ranges at each step")
    skip: tuple[str, ...] = Field(
        (), description="names of modules that are not quantized; * is a wildcard, e.g. conv1,layer4.*"
    )

    def prepare(self, network: nn.Module) -> nn.Module:
        """Make the layers of the network round, in place, and return it. Raises ValueError for a pattern in `skip` that
        matches no module, and if no layer is left."""
        skipped = within(matching(network, self.skip, "quantize.skip").values())
        layers = [module for module in network.modules() if _can_round(module) and module not in skipped]
        if not layers:
            raise ValueError("quantize: the model has no convolution or linear layer to quantize; leave quantize out")
        for layer in layers:
            layer.__class__ = ROUNDED[type(layer)]
            layer.register_buffer("input_range", torch.zeros(2))
            layer.input_decay = self.decay  # type: ignore[assignment]
        return network


def plain(network: nn.Module) -> nn.Module:
    """Undo `Quantize.prepare`, in place, and return the network: float layers, for an engine that quantizes itself."""
    for layer in network.modules():
        if type(layer) in ROUNDED.values():
            vars(layer).pop("input_decay")
            layer.__class__ = next(kind for kind, rounded in ROUNDED.items() if rounded is type(layer))
            del layer.input_range
    return network


def _can_round(layer: nn.Module) -> bool:
    """Whether there is a rounding class for the layer: not for subclasses, nor for padding other than with zeros."""
    return type(layer) in ROUNDED and getattr(layer, "padding_mode", "zeros") == "zeros"


class Rounded:
    """What the rounding layers share. input_range: smallest and largest input, float [2]; both 0 before training."""

    training: bool
    weight: torch.Tensor
    input_range: torch.Tensor
    input_decay: float

    def rounded(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The input rounded to uint8, whose range is updated before in training, and the weight rounded to int8."""
        if self.training:
            self._observe(x.detach())
        low, high = self.input_range.clamp(max=0)[0], self.input_range.clamp(min=0)[1]  # zero is always representable
        scale = ((high - low) / STEPS).clamp(min=SMALLEST_SCALE)
        zero = (-low / scale).round().clamp(0, STEPS)
        scales = (self.weight.detach().flatten(1).abs().amax(dim=1) / LARGEST).clamp(min=SMALLEST_SCALE)
        if torch.compiler.is_exporting():  # torch.export and ONNX do not know the operators below
            each = scales.view(-1, *[1] * (self.weight.dim() - 1))
            weight = (self.weight * (1 / each)).round().clamp(-LARGEST, LARGEST) * each
            return ((x * (1 / scale) + zero).round().clamp(0, STEPS) - zero) * scale, weight
        zeros = torch.zeros(len(scales), dtype=torch.int32, device=x.device)
        return (
            torch.fake_quantize_per_tensor_affine(x, scale, zero.int(), 0, STEPS),
            torch.fake_quantize_per_channel_affine(self.weight, scales, zeros, 0, -LARGEST, LARGEST),
        )

    @torch.no_grad()
    def _observe(self, x: torch.Tensor) -> None:
        now = torch.stack(torch.aminmax(x))
        average = torch.lerp(now, self.input_range, self.input_decay)
        self.input_range.copy_(torch.where(self.input_range.any(), average, now))


class RoundedConv2d(Rounded, nn.Conv2d):
    """A convolution whose input and weight are rounded."""

    def forward(self, x: torch.Tensor) -> Any:
        x, weight = self.rounded(x)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class RoundedLinear(Rounded, nn.Linear):
    """A linear layer whose input and weight are rounded."""

    def forward(self, x: torch.Tensor) -> Any:
        return nn.functional.linear(*self.rounded(x), self.bias)


ROUNDED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: RoundedConv2d, nn.Linear: RoundedLinear}
