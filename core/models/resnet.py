"""Residual networks (He et al. 2016), torchvision's, with a stem that suits the images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from core.context import Context
from core.models.base import Model


class ResNet(Model):
    """ResNet-18, -34 or -50. The cifar stem is one 3x3 convolution of stride 1 and no pooling, for small images."""

    depth: Literal[18, 34, 50] = Field(18, description="layers with weights")
    stem: Literal["cifar", "imagenet"] = Field("imagenet", description="cifar for images up to about 64 pixels")

    def build(self, context: Context) -> nn.Module:
        # torchvision takes 1.3 s to import: only who builds a ResNet pays for it
        from torchvision.models import resnet

        network = getattr(resnet, f"resnet{self.depth}")(weights=None, num_classes=len(context.classes))
        channels, width = context.image_shape[2], network.conv1.out_channels
        if self.stem == "cifar":
            network.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        elif channels != 3:
            network.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        return network
