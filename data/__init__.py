"""The data sets that a declaration can name."""

from data.cifar import Cifar10, Cifar100
from data.digits import Digits
from data.folder import ImageFolder
from data.hdf5 import Hdf5
from data.huggingface import HuggingFace
from data.shards import WebShards

__all__ = ["Cifar10", "Cifar100", "Digits", "Hdf5", "HuggingFace", "ImageFolder", "WebShards"]
