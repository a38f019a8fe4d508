"""Models: declarations that build an nn.Module from images, float [N, C, H, W], to logits [N, classes]."""

from core.models.airbench import Airbench
from core.models.base import Model
from core.models.flops import counted_flops, forward_flops
from core.models.lenet import LeNet
from core.models.recurrent import RowRNN
from core.models.resnet import CifarResNet, ResNet
from core.models.simple import MLP, SmallCNN
from core.models.weights import load_weights
from core.models.zoo import Timm, Torchvision

__all__ = [
    "MLP",
    "Airbench",
    "CifarResNet",
    "LeNet",
    "Model",
    "ResNet",
    "RowRNN",
    "SmallCNN",
    "Timm",
    "Torchvision",
    "counted_flops",
    "forward_flops",
    "load_weights",
]
