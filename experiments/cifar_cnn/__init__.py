"""Does a small CNN need a cosine schedule, or is it enough to reduce the learning rate on plateaus?

    python -m experiments.cifar_cnn --precision bf16 --seeds 3                       reduced on plateaus
    python -m experiments.cifar_cnn --precision bf16 --seeds 3 --variant cosine      cosine schedule over 20 epochs
    python -m experiments.cifar_cnn --root PATH                                      without a download
    python -m experiments.cifar_cnn search --variant cosine --trials 16 --workers 2 --confirm 2 --precision bf16

Expected: 81.1 % +- 2.1 (test accuracy on CIFAR-10 (JPEG), n = 3), cosine 81.5 % +- 0.7 (README.md); 10 to 18 min a
seed on one core with bf16 instructions, torch 2.15.
"""

from core.losses import CrossEntropy, FocalLoss
from core.optimizers import SGD, AdamW
from core.schedules import Cosine, Plateau
from core.schedules.stopping import EarlyStopping
from core.search import Choice, Float
from experiments.recipes import SMALL_CIFAR

EXPERIMENT = SMALL_CIFAR.but(
    {
        "schedule": Plateau(monitor="val/accuracy", factor=0.2, patience=2, warmup_epochs=1),
        "stopping": EarlyStopping(monitor="val/accuracy", patience=6),
        "epochs": 60,
    }
)
VARIANTS = {"cosine": {"schedule": Cosine(warmup_epochs=1), "stopping": None, "epochs": 20}}
SPACE = {
    "optimizer": Choice(
        SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        AdamW(lr=2e-3, weight_decay=0.05),
        within={"SGD": {"lr": Float(0.02, 0.5, log=True)}, "AdamW": {"lr": Float(5e-4, 2e-2, log=True)}},
    ),
    "loss": Choice(CrossEntropy(), CrossEntropy(label_smoothing=0.1), FocalLoss(gamma=2.0)),
    "model.dropout": Float(0.0, 0.3),
}
