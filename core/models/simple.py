"""Small networks for small images."""

from __future__ import annotations

import itertools
import math
from typing import Annotated

from pydantic import Field
from torch import nn

from core.context import Context
from core.models.activations import ACTIVATION_MEANING, Activation, activation_layer
from core.models.base import Model
from core.models.norms import NORM_MEANING, Norm, norm_layer

# larger than any memory allows; torch's error for sizes that overflow is hard to understand
Width = Annotated[int, Field(ge=1, le=1 << 20)]


class MLP(Model):
    """Multilayer perceptron (Rumelhart et al. 1986), from images [N, C, H, W] to logits [N, classes]."""

    hidden: tuple[Width, ...] = Field((128,), description="number of units of each hidden layer, e.g. 256,128")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability after each hidden layer")
    activation: Activation = Field("ReLU", description=ACTIVATION_MEANING)

    def network(self, context: Context) -> nn.Module:
        widths = [math.prod(context.image_shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), activation_layer(self.activation)]
            layers += [nn.Dropout(self.dropout)] if self.dropout else []
        return nn.Sequential(*layers, nn.Linear(widths[-1], len(context.classes)))


class SmallCNN(Model):
    """Small convolutional network after VGG (Simonyan and Zisserman 2015, section 2.1), from images [N, C, H, W] to
    logits [N, classes].

    Stages of two 3x3 convolutions, each with normalization and activation; max pooling between stages; global average
    pooling; a linear layer. With norm group, images are normalized independently of each other, so that results do not
    depend on the number of processes.
    """

    widths: tuple[Width, ...] = Field(
        (32, 64), description="number of channels of each stage; the image size halves between stages"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability before the last layer")
    norm: Norm = Field("batch", description=NORM_MEANING)
    activation: Activation = Field("ReLU", description=ACTIVATION_MEANING)

    def check(self) -> None:
        if not self.widths:
            raise ValueError("widths must contain at least one number of channels, e.g. 32,64")
        if self.norm == "group" and any(width % max(1, width // 8) for width in self.widths):
            raise ValueError(f"with norm group, widths must be multiples of 8 or less than 8, not {self.widths}")

    def network(self, context: Context) -> nn.Module:
        height, width, channels = context.image_shape
        if min(height, width) >> (len(self.widths) - 1) < 1:
            raise ValueError(
                f"model.widths: {len(self.widths)} stages need images of at least {1 << (len(self.widths) - 1)} pixels "
                f"a side, and these have {height}x{width}; use fewer widths"
            )
        layers: list[nn.Module] = []
        for stage, wide in enumerate(self.widths):
            layers += [nn.MaxPool2d(2)] if stage else []
            layers += self._convolution(channels, wide) + self._convolution(wide, wide)
            channels = wide
        return nn.Sequential(
            *layers,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(self.dropout),
            nn.Linear(channels, len(context.classes)),
        )

    def _convolution(self, before: int, after: int) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        return [convolution, norm_layer(self.norm)(after), activation_layer(self.activation)]
