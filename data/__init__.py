"""The data sets that a declaration can name."""

from data.cifar import Cifar10, Cifar100
from data.digits import Digits
from data.folder import ImageFolder
from data.mnist import FashionMnist, Mnist
from data.table import ImageTable

__all__ = ["Cifar10", "Cifar100", "Digits", "FashionMnist", "ImageFolder", "ImageTable", "Mnist"]
