"""Which accuracy does a ResNet-18 reach on CIFAR-10 with the standard recipe?

    python -m experiments.cifar_resnet                            train; CIFAR-10 is downloaded once (163 MB)
    python -m experiments.cifar_resnet --root PATH                the archive, its batches, or image folders
    python -m experiments.cifar_resnet --data Digits              the same network on scikit-learn's digits
    python -m experiments.cifar_resnet --variant cutmix --seeds 3
    python -m experiments.cifar_resnet --variant short            15 epochs in bf16, for a CPU

Expected: 87.53 % +- 0.41 on CIFAR-10 (JPEG) with --variant short (n = 3); the 60 epochs of the base are not measured.
"""

from core.augment import CutMix, Mixup, RandAugment, Resize
from core.experiment import Experiment
from core.losses import CrossEntropy, FocalLoss
from core.models import ResNet
from core.optimizers import SAM, SGD
from core.optimizers.averaging import Ema
from core.schedules import Cosine, OneCycle
from core.schedules.stopping import EarlyStopping
from data import Cifar10
from experiments.recipes import CROP_AND_FLIP

SGD_NESTEROV = SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

EXPERIMENT = Experiment(
    data=Cifar10(),
    model=ResNet(depth=18, stem="cifar"),
    augment=CROP_AND_FLIP,
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD_NESTEROV,
    schedule=Cosine(warmup_epochs=3),
    stopping=EarlyStopping(patience=15),
    epochs=60,
    batch_size=128,
)
VARIANTS = {
    "short": {
        "augment": (*CROP_AND_FLIP, Resize(initial_scale=0.5, delay_fraction=0.3)),
        "schedule": OneCycle(),
        "stopping": None,
        "epochs": 15,
        "precision": "bf16",
    },
    "focal": {"loss": FocalLoss(gamma=2.0)},
    "mixup": {"augment": (*CROP_AND_FLIP, Mixup(alpha=0.2))},
    "cutmix": {"augment": (*CROP_AND_FLIP, CutMix(alpha=1.0))},
    "randaugment": {"augment": (RandAugment(num_ops=2, magnitude=9), *CROP_AND_FLIP)},
    "ema": {"ema": Ema(decay=0.999)},
    "sam": {"optimizer": SAM(base=SGD_NESTEROV, rho=0.05)},
}
