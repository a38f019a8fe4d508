"""How far does a small CNN get on 1,797 handwritten digits of 8x8 pixels?

    python -m experiments.digits_cnn                    train: seconds on a laptop, no download
    python -m experiments.digits_cnn --seeds 5          mean and interval of five seeds
    python -m experiments.digits_cnn --variant mlp      a fully connected network instead
    python -m experiments.digits_cnn search --trials 40 --workers 2

Expected: 99.33 % +- 0.31 (test accuracy, mean and 95 % interval of 5 seeds), 3 to 12 s a seed on 2 CPU cores,
torch 2.15.
"""

from core.augment import RandomCrop
from core.experiment import Experiment
from core.losses import CrossEntropy, FocalLoss
from core.models import MLP, SmallCNN
from core.optimizers import SGD, AdamW
from core.schedules import Cosine
from core.schedules.stopping import EarlyStopping
from core.search import Choice, Float, Int
from data import Digits

EXPERIMENT = Experiment(
    data=Digits(),
    model=SmallCNN(widths=(32, 64)),
    augment=(RandomCrop(padding=1),),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    stopping=EarlyStopping(patience=15, monitor="val/loss"),
    monitor="val/loss",
    epochs=30,
    batch_size=64,
)
VARIANTS = {
    "mlp": {"model": MLP(hidden=(128, 128)), "augment": ()},
    "plain": {"augment": (), "loss.label_smoothing": 0.0},
}
SPACE = {
    "optimizer": Choice(
        SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        AdamW(lr=2e-3, weight_decay=0.05),
        within={"SGD": {"lr": Float(0.01, 1.0, log=True)}, "AdamW": {"lr": Float(2e-4, 2e-2, log=True)}},
    ),
    "loss": Choice(CrossEntropy(), CrossEntropy(label_smoothing=0.1), FocalLoss(gamma=2.0)),
    "model.widths": Choice((16, 32), (32, 64)),
    "schedule.warmup_epochs": Int(0, 3),
}
