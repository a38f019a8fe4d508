"""How accurate is a pretrained network on your own images, training first its head, then all layers?

    python -m experiments.folder_finetune --root PATH                    <class>/*.jpg, or these in train/ and test/
    python -m experiments.folder_finetune --root PATH --variant probe    linear probe: seconds, also on a laptop
    python -m experiments.folder_finetune --root PATH --variant few      few images per class
    python -m experiments.folder_finetune --root PATH --model.name efficientnet_b0
    python -m experiments.folder_finetune --root PATH --model.weights none --freeze none    from scratch

The head is trained for two epochs, then all layers, with lower learning rates for earlier layers
(optimizer.layer_decay).

Expected: with torchvision's weights not yet measured; from six classes of CIFAR-10 (JPEG) to the other four, 6 points
more than from scratch in as many epochs (n = 3, README.md).
"""

from core.augment import HorizontalFlip, RandomCrop
from core.experiment import Experiment
from core.losses import CrossEntropy
from core.models import Torchvision
from core.models.freeze import Freeze
from core.optimizers import AdamW
from core.schedules import Cosine
from data import ImageFolder

EXPERIMENT = Experiment(
    data=ImageFolder(size=224),
    model=Torchvision(name="resnet18", weights="IMAGENET1K_V1"),
    freeze=Freeze(unfreeze_epoch=2),
    normalize="imagenet",
    augment=(RandomCrop(padding=28), HorizontalFlip()),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=AdamW(lr=1e-3, weight_decay=0.05, layer_decay=0.7),
    schedule=Cosine(warmup_epochs=1),
    monitor="val/loss",
    epochs=12,
    batch_size=32,
)
PROBE = {"freeze.unfreeze_epoch": None, "augment": ()}
VARIANTS = {
    "probe": PROBE,
    "few": PROBE | {"batch_size": 4, "epochs": 30},
    "whole": {"freeze": None},
    "one_rate": {"optimizer.layer_decay": 1.0, "optimizer.lr": 1e-4},
}
