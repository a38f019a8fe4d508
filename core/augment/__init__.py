"""Data augmentation: transforms of single images (in the loader workers), then of whole batches (on the device)."""

from core.augment.albumentation import Albumentation
from core.augment.base import Augment, BatchStep, Crop, ImageStep, augmented
from core.augment.batch_steps import (
    AlternatingFlip,
    CutMix,
    Cutout,
    HorizontalFlip,
    Mixup,
    RandomCrop,
    RandomErasing,
    Translate,
)
from core.augment.image_steps import AutoAugment, CoarseDropout, ColorJitter, RandAugment, Rotation, TrivialAugment
from core.augment.pipeline import per_image
from core.augment.resize import Resize
from core.augment.resized_crop import RandomResizedCrop
from core.augment.transform import Transform
from core.loading.normalize import normalizer

__all__ = [
    "Albumentation",
    "AlternatingFlip",
    "Augment",
    "AutoAugment",
    "BatchStep",
    "CoarseDropout",
    "ColorJitter",
    "Crop",
    "CutMix",
    "Cutout",
    "HorizontalFlip",
    "ImageStep",
    "Mixup",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomResizedCrop",
    "Resize",
    "Rotation",
    "Transform",
    "Translate",
    "TrivialAugment",
    "augmented",
    "normalizer",
    "per_image",
]
