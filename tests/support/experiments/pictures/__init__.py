"""What would a ResNet-18 reach on CIFAR-10?

    python -m experiments.pictures                      declared, parsed and refused; no test trains it
    python -m experiments.pictures --variant cutmix

Expected: not yet measured.
"""

from core.augment import CutMix, HorizontalFlip, Mixup, RandomCrop
from core.experiment import Experiment
from core.losses import CrossEntropy, FocalLoss
from core.models import ResNet
from core.optimizers import SGD
from core.schedules import Cosine
from core.schedules.stopping import EarlyStopping
from data import Cifar10

STEPS = (RandomCrop(padding=4), HorizontalFlip())

EXPERIMENT = Experiment(
    data=Cifar10(),
    model=ResNet(depth=18, stem="cifar"),
    augment=STEPS,
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=3),
    stopping=EarlyStopping(patience=15),
    epochs=60,
    batch_size=128,
)
VARIANTS = {
    "focal": {"loss": FocalLoss(gamma=2.0)},
    "mixup": {"augment": (*STEPS, Mixup(alpha=0.2))},
    "cutmix": {"augment": (*STEPS, CutMix(alpha=1.0))},
}
