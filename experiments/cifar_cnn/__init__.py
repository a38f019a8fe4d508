"""Does a small CNN need a planned learning rate, or will one do that falls when validation stalls?

    python -m experiments.cifar_cnn --precision bf16 --seeds 3                       falls when validation stalls
    python -m experiments.cifar_cnn --precision bf16 --seeds 3 --variant cosine      planned: a cosine over 20 epochs
    python -m experiments.cifar_cnn --root PATH                                      without a download

Expected: not yet measured
"""

from core.schedules import Cosine, Plateau
from core.stopping import EarlyStopping
from experiments.recipes import SMALL_CIFAR

EXPERIMENT = SMALL_CIFAR.but(
    {
        "schedule": Plateau(metric="val/accuracy", factor=0.2, patience=2, warmup_epochs=1),
        "stopping": EarlyStopping(metric="val/accuracy", patience=6),
        "epochs": 60,
    }
)
VARIANTS = {"cosine": {"schedule": Cosine(warmup_epochs=1), "stopping": None, "epochs": 20}}
