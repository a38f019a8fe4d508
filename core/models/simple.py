"""Small networks for small images."""

from __future__ import annotations

import itertools
import math
from typing import Annotated

from pydantic import Field
from torch import nn

from core.context import Context
from core.models.base import Model
from core.models.norms import NORM_MEANING, Norm, norm_layer

# beyond any memory; torch's own words for sizes that overflow would not be understood
Width = Annotated[int, Field(ge=1, le=1 << 20)]


class MLP(Model):
    """Fully connected layers (Rumelhart et al. 1986) with ReLU between: images [N, C, H, W] to logits [N, classes]."""

    hidden: tuple[Width, ...] = Field((128,), description="width of each hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="probability of dropping a hidden unit")

    def network(self, context: Context) -> nn.Module:
        widths = [math.prod(context.image_shape), *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
            layers += [nn.Dropout(self.dropout)] if self.dropout else []
        return nn.Sequential(*layers, nn.Linear(widths[-1], len(context.classes)))


class SmallCNN(Model):
    """Stages of two 3x3 convolutions with a norm and ReLU; max pooling between; mean over space; linear. After VGG
    (Simonyan and Zisserman 2015, section 2.1).

    Images [N, C, H, W] to logits [N, classes]. norm group sees one image at a time, and so is the same over any number
    of processes.
    """

    widths: tuple[Width, ...] = Field((32, 64), description="channels of each stage; the image halves between stages")
    dropout: float = Field(0.0, ge=0, lt=1, description="before the last layer")
    norm: Norm = Field("batch", description=NORM_MEANING)

    def check(self) -> None:
        if not self.widths:
            raise ValueError("widths must be one or more numbers of channels")
        if self.norm == "group" and any(width % max(1, width // 8) for width in self.widths):
            raise ValueError(f"norm group needs widths that 8 divides, or below 8, not {self.widths}")

    def network(self, context: Context) -> nn.Module:
        height, width, channels = context.image_shape
        if min(height, width) >> (len(self.widths) - 1) < 1:
            raise ValueError(f"{len(self.widths)} stages halve a {height}x{width} image to nothing: use fewer widths")
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
        return [convolution, norm_layer(self.norm)(after), nn.ReLU(inplace=True)]
