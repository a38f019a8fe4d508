"""Residual networks (He et al. 2016): those of torchvision, with an optional CIFAR stem, and the paper's for CIFAR."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from core.context import Context
from core.models.base import Model
from core.models.hooks import drop_branches, dropout_before
from core.models.norms import NORM_MEANING, Norm, norm_layer

DEPTH_MEANING = (
    "stochastic depth: probability of dropping the last residual branch, decreasing linearly towards the first"
)


class ResNet(Model):
    """ResNet-18, -34 or -50 (He et al. 2016, table 1), from images [N, C, H, W] to logits [N, classes].

    The cifar stem, for small images, is one 3x3 convolution of stride 1, without max pooling.
    """

    depth: Literal[18, 34, 50] = Field(18, description="number of layers with weights")
    stem: Literal["cifar", "imagenet"] = Field(
        "imagenet",
        description="first layers. imagenet: 7x7 convolution of stride 2 and max pooling; cifar: 3x3 convolution of "
        "stride 1, for images up to about 64 pixels",
    )
    norm: Norm = Field("batch", description=NORM_MEANING)
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability before the last layer")
    stochastic_depth: float = Field(0.0, ge=0, lt=1, description=DEPTH_MEANING)

    def published(self) -> str | None:
        return f"resnet{self.depth}" if self.norm == "batch" else None

    def network(self, context: Context) -> nn.Module:
        # imported here, because importing torchvision takes 1.3 s
        from torchvision.models import resnet

        network = getattr(resnet, f"resnet{self.depth}")(
            weights=None, num_classes=len(context.classes), norm_layer=norm_layer(self.norm)
        )
        channels, width = context.image_shape[2], network.conv1.out_channels
        if self.stem == "cifar":
            network.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        elif channels != 3:
            network.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        dropout_before(network.fc, self.dropout)
        drop_branches(branch_ends(network), self.stochastic_depth)
        built: nn.Module = network
        return built


def branch_ends(network: nn.Module) -> list[nn.Module]:
    """The last normalization layer of each residual branch of a torchvision ResNet, in order."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    blocks = [block for block in network.modules() if isinstance(block, BasicBlock | Bottleneck)]
    return [block.bn3 if isinstance(block, Bottleneck) else block.bn2 for block in blocks]


class CifarResNet(Model):
    """ResNet for CIFAR-10 (He et al. 2016, section 4.2), from images [N, C, H, W] to logits [N, classes].

    A 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, global average pooling, a linear layer;
    depth = 6 n + 2. Shortcuts have no weights (option A). ResNet-20 has 0.27 M parameters, ResNet-32 0.46 M, ResNet-56
    0.85 M.
    """

    depth: Literal[8, 14, 20, 32, 44, 56, 110] = Field(20, description="number of layers with weights, 6 n + 2")
    norm: Norm = Field("batch", description=NORM_MEANING)
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout probability before the last layer")
    stochastic_depth: float = Field(0.0, ge=0, lt=1, description=DEPTH_MEANING)

    def network(self, context: Context) -> nn.Module:
        network = _CifarResNet((self.depth - 2) // 6, self.norm, context.image_shape[2], len(context.classes))
        dropout_before(network.fc, self.dropout)
        drop_branches([block.bn2 for block in network.blocks()], self.stochastic_depth)
        return network


class _CifarResNet(nn.Module):
    def __init__(self, n: int, norm: Norm, channels: int, classes: int):
        super().__init__()
        make = norm_layer(norm)
        self.conv1, self.bn1 = _convolution(channels, 16), make(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16, norm) for _ in range(n)))
        self.layer2 = nn.Sequential(*(_Block(32 if i else 16, 32, norm) for i in range(n)))
        self.layer3 = nn.Sequential(*(_Block(64 if i else 32, 64, norm) for i in range(n)))
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def blocks(self) -> list[_Block]:
        return [block for block in self.modules() if isinstance(block, _Block)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: torch.Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Residual block of two 3x3 convolutions; if the number of channels doubles, the first has stride 2."""

    def __init__(self, before: int, after: int, norm: Norm):
        super().__init__()
        make = norm_layer(norm)
        self.stride, self.more = (1 if before == after else 2), after - before
        self.conv1, self.bn1 = _convolution(before, after, self.stride), make(after)
        self.conv2, self.bn2 = _convolution(after, after), make(after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.more:  # subsample, and pad the new channels with zeros
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(branch + x)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
