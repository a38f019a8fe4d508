"""Does augmentation help on handwritten digits of 8x8 pixels, with few training images?

    python -m experiments.digits_augment --seeds 10                       no augmentation
    python -m experiments.digits_augment --seeds 10 --variant crop        random crops with padding 1, and so on
    python -m experiments.digits_augment --seeds 10 --data.test_fraction 0.2 --variant crop    with all images
    python -m experiments.digits_augment --seeds decided --variant flip,affine --budget 20    until it is known

Expected: 98.1 % +- 0.4 (test accuracy, n = 10), no variant shown to be better (README.md); 5 s a seed on one core.
"""

from core.augment import Albumentation, CutMix, Cutout, HorizontalFlip, Mixup, RandomCrop
from experiments.recipes import FEW_DIGITS

EXPERIMENT = FEW_DIGITS
VARIANTS = {
    "crop": {"augment": (RandomCrop(padding=1),)},
    "flip": {"augment": (HorizontalFlip(),)},
    "cutout": {"augment": (Cutout(size=3),)},
    "mixup": {"augment": (Mixup(alpha=0.2),)},
    "cutmix": {"augment": (CutMix(alpha=1.0),)},
    "affine": {
        "augment": (Albumentation(name="Affine", arguments={"rotate": [-10, 10], "scale": [0.9, 1.1], "p": 0.8}),)
    },
}
