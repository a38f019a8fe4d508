"""Models: a declaration builds an nn.Module from images float [N, C, H, W] to logits [N, classes]."""

from core.models.base import Model
from core.models.resnet import ResNet
from core.models.simple import MLP, SmallCNN

__all__ = ["MLP", "Model", "ResNet", "SmallCNN"]
