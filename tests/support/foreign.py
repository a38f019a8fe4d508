"""Data sets and transforms as a user of torch has them, named in declarations as tests.support.foreign:NAME."""

import random
import sys

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchvision.transforms import v2

RAW = load_digits()
FORMS = {
    "pil": Image.fromarray,
    "array": lambda pixels: pixels,
    "last": lambda pixels: pixels[..., None],
    "tensor": torch.from_numpy,
    "first": lambda pixels: torch.from_numpy(pixels)[None],
    "float": lambda pixels: torch.from_numpy(pixels)[None] / 255,
    "color": lambda pixels: Image.fromarray(pixels).convert("RGB"),
    "words": lambda pixels: "an image",
    "uneven": lambda pixels: pixels[: 7 + pixels[0, 2] // 10 % 2],
}


class Digits(Dataset):
    """The digits, 0 to 150 of 255."""

    def __init__(self, form="pil", transform=None, start=0, stop=1797, step=1):
        self.pixels = (RAW.images[start:stop:step] * 10).astype(np.uint8)
        self.targets = RAW.target[start:stop:step]
        self.form, self.transform = FORMS[form], transform

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, at):
        image = self.form(self.pixels[at])
        return (self.transform(image) if self.transform else image), int(self.targets[at])


class Lasting(Digits):
    """Its length is no number."""

    def __len__(self):
        return "1797"


class Exiting(Digits):
    """Leaves the program at an item that is not among the first ones."""

    def __getitem__(self, at):
        if at > 1600:
            sys.exit("no more")
        return super().__getitem__(at)


class Named(Digits):
    classes = ("null", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Stream(IterableDataset):
    def __len__(self):
        return 1797

    def __iter__(self):
        digits = Digits()
        return (digits[at] for at in range(len(digits)))


class Several(Digits):
    """Labels: even, large."""

    def __getitem__(self, at):
        image, label = super().__getitem__(at)
        return image, torch.tensor([label % 2 == 0, label > 4]).float()


class Shifted(Digits):
    def __getitem__(self, at):
        image, label = super().__getitem__(at)
        return image, label - 1


def generated():
    yield from Stream()


def cropped():
    return Digits(transform=v2.Compose([v2.CenterCrop(6), v2.Grayscale()]))


def flipped():
    return Digits(transform=v2.RandomHorizontalFlip())


def normalized():
    return Digits("float", transform=v2.Normalize([0.5], [0.5]))


def loader():
    return DataLoader(Digits("tensor"), batch_size=4)


def empty():
    return Digits(stop=0)


def text():
    return "digits"


def broken():
    return Digits()[0] + 1


def jitter(amount):
    """A transform of arrays that draws from all three generators."""

    def change(image):
        pixels = image.astype(int)
        shift = random.random() + np.random.random() + torch.rand(()).item()
        return np.clip(pixels + amount * shift, 0, 255).astype(np.uint8)

    return change


def to_float():
    return v2.ToDtype(torch.float32, scale=True)
