"""What does it cost to make a trained network smaller, and what does it save?

    python -m experiments.compress                                       the base; it prints its run's id
    python -m experiments.compress --variant sparse80 --model.weights RUN    80 % of its weights set to zero
    python -m experiments.compress --variant half --model.weights RUN        without half of its channels
    python -m experiments.compress --variant quantized --model.weights RUN   rounded to 8 bits in training
    python -m experiments.compress --variant cifar --root PATH           ResNet-18 on CIFAR-10 instead
    python -m experiments.compress --variant cifar_small --root PATH     a small CNN on CIFAR-10
    python -m tests.benchmarks.compress                                  all of it, with sizes and latencies, as a table

Expected: test accuracy 99.35 % +- 0.80 (n = 3), whole and with 80 % of its weights removed; 99.26 % +- 0.40 without
half of its channels (README.md); seconds for each, torch 2.14.
"""

from core.augment import RandomCrop
from core.experiment import Experiment
from core.losses import CrossEntropy
from core.models import ResNet, SmallCNN
from core.models.prune import Prune
from core.models.quantize import Quantize
from core.optimizers import SGD
from core.schedules import Cosine
from core.search import Float
from data import Cifar10, Digits
from experiments.recipes import CROP_AND_FLIP, SMALL_CIFAR

EXPERIMENT = Experiment(
    data=Digits(),
    model=SmallCNN(widths=(32, 64)),
    augment=(RandomCrop(padding=1),),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    monitor="val/loss",
    epochs=30,
    batch_size=64,
)
# all but those of CIFAR-10 are meant for --model.weights RUN; from random weights, they prune or round in training
FURTHER = {"optimizer.lr": 0.02, "epochs": 15}
VARIANTS = {
    "further": FURTHER,
    "sparse50": FURTHER | {"prune": Prune(amount=0.5, end_epoch=8)},
    "sparse80": FURTHER | {"prune": Prune(amount=0.8, end_epoch=8)},
    "sparse90": FURTHER | {"prune": Prune(amount=0.9, end_epoch=8)},
    "half": FURTHER | {"prune": Prune(amount=0.5, how="structured", scope="layer")},
    "quantized": FURTHER | {"quantize": Quantize()},
    "cifar_small": {"data": Cifar10(), "model": SMALL_CIFAR.model, "augment": CROP_AND_FLIP, "batch_size": 128},
    "cifar": {"data": Cifar10(), "model": ResNet(depth=18, stem="cifar"), "augment": CROP_AND_FLIP, "batch_size": 128},
}
SPACE = {"optimizer.lr": Float(0.003, 0.3, log=True)}
