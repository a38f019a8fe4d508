"""The network of airbench (Jordan 2024), whose first layer whitens patches of the training images."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from core.context import Context
from core.models.base import Model
from core.models.simple import Width

PATCH = 2  # side of the patches that are whitened, in pixels
PATCHES = 5000 * 31 * 31  # number of patches that are measured: those of 5,000 images of CIFAR-10
EPS = 5e-4  # added to the eigenvalues
CHUNK = 500


class Airbench(Model):
    """The network of airbench94 (Jordan 2024, arXiv:2404.00498, section 3), from images [N, C, H, W] to logits [N,
    classes]; 1,972,792 parameters for CIFAR-10.

    A 2x2 convolution whose filters whiten patches of the training images, and their negatives; they are not trained,
    its bias is. Then three groups of two 3x3 convolutions with max pooling, BatchNorm without scale, and GELU; global
    max pooling; a linear layer without bias. As many filters of each 3x3 convolution as it has inputs start as the
    identity.

    The first weights of the linear layer have the standard deviation 1 / inputs. The script airbench94_muon divides the
    logits by the number of inputs instead; with SGD that is the same training at a learning rate that is inputs^2 times
    as large, and a weight decay that is as much smaller.
    """

    widths: tuple[Width, Width, Width] = Field((64, 256, 256), description="number of channels of each group")

    def network(self, context: Context) -> nn.Module:
        height, width, channels = context.image_shape
        rows, columns = ((side - PATCH + 1) >> len(self.widths) for side in (height, width))
        if not rows or not columns:
            least = (1 << len(self.widths)) + PATCH - 1
            raise ValueError(
                f"model: Airbench needs images of at least {least} pixels a side, and these have {height}x{width}"
            )
        whiten = Whitening(channels)
        if context.sample:
            whiten.fit(context.sample(-(-PATCHES // ((height - PATCH + 1) * (width - PATCH + 1)))))
        layers: list[tuple[str, nn.Module]] = [("whiten", whiten), ("gelu", nn.GELU())]
        before = whiten.out_channels
        for number, after in enumerate(self.widths, 1):
            layers.append((f"group{number}", _group(before, after)))
            before = after
        head = nn.Linear(before, len(context.classes), bias=False)
        with torch.no_grad():
            head.weight /= before * head.weight.std()
        layers += [("pool", nn.MaxPool2d((rows, columns))), ("flatten", nn.Flatten()), ("head", head)]
        return nn.Sequential(OrderedDict(layers))


class Whitening(nn.Conv2d):
    """2x2 convolution without padding whose filters are not trained: [N, C, H, W] -> [N, 8 C, H - 1, W - 1].

    Until `fit`, the filters are those of any convolution.
    """

    def __init__(self, channels: int):
        super().__init__(channels, 2 * channels * PATCH**2, PATCH)
        self.weight.requires_grad_(False)

    def fit(self, images: torch.Tensor) -> None:
        """Set the filters to those that whiten the patches of images, float [N, C, H, W], and their negatives."""
        filters = whitening_filters(images, PATCH, EPS)
        with torch.no_grad():
            self.weight.copy_(torch.cat([filters, -filters]))


def whitening_filters(images: torch.Tensor, size: int, eps: float) -> torch.Tensor:
    """Filters, float32 [C * size^2, C, size, size], whose outputs on all patches of images, float [N, C, H, W], are
    uncorrelated and have a mean square of 1, up to eps: eigenvectors of the second moments of patches, each divided by
    the square root of its eigenvalue + eps (Page 2019, "How to train your ResNet 8"; Jordan 2024, section 3).

    Images are normalized, so that means are about 0 and are not subtracted.
    """
    channels, count = images.shape[1], 0
    moments = torch.zeros(channels * size**2, channels * size**2, dtype=torch.float64)
    for part in images.split(CHUNK):
        patches = F.unfold(part.float(), size).double().transpose(0, 1).flatten(1)
        moments += patches @ patches.T
        count += patches.shape[1]
    values, vectors = torch.linalg.eigh(moments / count)
    filters: torch.Tensor = vectors.T / (values.clamp(min=0) + eps).sqrt()[:, None]
    return filters.float().reshape(-1, channels, size, size)


def _group(before: int, after: int) -> nn.Sequential:
    """Two convolutions; [N, before, H, W] -> [N, after, H / 2, W / 2]."""
    return nn.Sequential(
        OrderedDict(
            conv1=_convolution(before, after),
            pool=nn.MaxPool2d(2),
            norm1=_norm(after),
            gelu1=nn.GELU(),
            conv2=_convolution(after, after),
            norm2=_norm(after),
            gelu2=nn.GELU(),
        )
    )


def _convolution(before: int, after: int) -> nn.Conv2d:
    made = nn.Conv2d(before, after, 3, padding=1, bias=False)
    nn.init.dirac_(made.weight.data[:before])
    return made


def _norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm without scale whose running statistics span few steps, since a training has only about 200.

    Epsilon is torch's, not the 1e-12 of the source, with which gradients of a channel without variance overflow.
    """
    made = nn.BatchNorm2d(channels, momentum=0.4)
    made.weight.requires_grad_(False)
    return made
