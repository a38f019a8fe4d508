"""Does a penalty on confident predictions (a training method of its own, method.py) do what label smoothing does?

    python -m experiments.custom_method --seeds 10                        the penalty
    python -m experiments.custom_method --seeds 10 --method.beta 0.5      a stronger one
    python -m experiments.custom_method --seeds 10 --variant smoothing    label smoothing in its place
    python -m experiments.custom_method --seeds 10 --variant plain        neither

Expected: 97.7 % +- 0.2 (test accuracy, n = 10), label smoothing 98.3 (README.md); 5 s a seed on one core.
"""

from core.augment import RandomCrop
from core.experiment import Experiment
from core.losses import CrossEntropy
from core.methods import Supervised
from core.models import SmallCNN
from core.optimizers import SGD
from core.schedules import Cosine
from data import Digits
from experiments.custom_method.method import ConfidencePenalty

EXPERIMENT = Experiment(
    data=Digits(test_fraction=0.8, val_fraction=0.2),
    model=SmallCNN(widths=(32, 64)),
    augment=(RandomCrop(padding=1),),
    loss=CrossEntropy(),
    method=ConfidencePenalty(beta=0.1),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    select="val/loss",
    epochs=40,
    batch_size=32,
)
VARIANTS = {
    "plain": {"method": Supervised()},
    "smoothing": {"method": Supervised(), "loss.label_smoothing": 0.1},
}
