"""Augmentation: per-image steps (albumentations, in the loader), then per-batch steps (torch, on the device)."""

from core.augment.albumentation import Albumentation
from core.augment.base import Augment, BatchStep, ImageStep, augmented, normaliser, per_image
from core.augment.geometry import Cutout, HorizontalFlip, RandomCrop
from core.augment.mixing import CutMix, Mixup

__all__ = [
    "Albumentation",
    "Augment",
    "BatchStep",
    "CutMix",
    "Cutout",
    "HorizontalFlip",
    "ImageStep",
    "Mixup",
    "RandomCrop",
    "augmented",
    "normaliser",
    "per_image",
]
