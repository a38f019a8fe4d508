"""Declarations that several experiments share."""

from core.augment import HorizontalFlip, RandomCrop
from core.experiment import Experiment
from core.losses import CrossEntropy
from core.models import SmallCNN
from core.optimizers import SGD
from core.schedules import Cosine
from data import Cifar10, Digits

# 287 training, 72 validation and 1,438 test images: one percentage point of test accuracy is 14 images
FEW_DIGITS = Experiment(
    data=Digits(test_fraction=0.8, val_fraction=0.2),
    model=SmallCNN(widths=(32, 64)),
    loss=CrossEntropy(),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    monitor="val/loss",
    epochs=40,
    batch_size=32,
)
CROP_AND_FLIP = (RandomCrop(padding=4), HorizontalFlip())

# 72,954 parameters; an epoch takes half a minute on one CPU core
SMALL_CIFAR = Experiment(
    data=Cifar10(),
    model=SmallCNN(widths=(16, 32, 64)),
    augment=CROP_AND_FLIP,
    loss=CrossEntropy(),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    epochs=20,
    batch_size=128,
)
