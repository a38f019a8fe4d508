"""LeNet-5."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from core.context import Context
from core.models.activations import ACTIVATION_MEANING, Activation, activation_layer
from core.models.base import Model

SIDE = 32  # of the images of the paper, with their border


class LeNet(Model):
    """LeNet-5 (LeCun et al. 1998, section II.B), from images [N, C, H, W] to logits [N, classes].

    Two 5x5 convolutions, each followed by average pooling, and three linear layers. Images with a side of fewer than
    32 pixels get a border of zeros, as those of 28x28 in the paper; larger ones have more inputs to the first linear
    layer. Simplified as is usual: the second convolution sees all channels, pooling has no weights, and the last layer
    is linear. It has 61,706 parameters for gray images of 32x32 and 10 classes.
    """

    activation: Activation = Field("Tanh", description=ACTIVATION_MEANING)

    def network(self, context: Context) -> nn.Module:
        height, width, channels = context.image_shape
        rows, columns = max(height, SIDE), max(width, SIDE)
        top, left = (rows - height) // 2, (columns - width) // 2
        border = (left, columns - width - left, top, rows - height - top)
        inputs = 16 * _pooled(_pooled(rows)) * _pooled(_pooled(columns))
        return nn.Sequential(
            nn.ZeroPad2d(border) if any(border) else nn.Identity(),
            *(nn.Conv2d(channels, 6, 5), activation_layer(self.activation), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 16, 5), activation_layer(self.activation), nn.AvgPool2d(2)),
            nn.Flatten(),
            *(nn.Linear(inputs, 120), activation_layer(self.activation)),
            *(nn.Linear(120, 84), activation_layer(self.activation)),
            nn.Linear(84, len(context.classes)),
        )


def _pooled(side: int) -> int:
    """The side of the output of a 5x5 convolution and a pooling layer."""
    return (side - 4) // 2
