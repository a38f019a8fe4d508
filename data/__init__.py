"""The datasets that a declaration can use."""

from data.arrays import Arrays
from data.cifar import Cifar10, Cifar100
from data.concat import Concat
from data.digits import Digits
from data.folder import ImageFolder
from data.hdf5 import Hdf5
from data.huggingface import HuggingFace
from data.mnist import FashionMnist, Mnist
from data.shards import WebShards
from data.table import ImageTable
from data.torch_dataset import TorchDataset
from data.torchvision_dataset import TorchvisionDataset

__all__ = [
    "Arrays",
    "Cifar10",
    "Cifar100",
    "Concat",
    "Digits",
    "FashionMnist",
    "Hdf5",
    "HuggingFace",
    "ImageFolder",
    "ImageTable",
    "Mnist",
    "TorchDataset",
    "TorchvisionDataset",
    "WebShards",
]
