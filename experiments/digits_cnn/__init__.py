"""How far does a small CNN get on 1,438 handwritten digits of 8x8 pixels?

    python -m experiments.digits_cnn                      train: seconds on a laptop, no download
    python -m experiments.digits_cnn --seeds 5            mean and interval of five seeds
    python -m experiments.digits_cnn --variant mlp        a fully connected network instead

Expected: tbd
"""

from core.augment import RandomCrop
from core.experiment import Experiment
from core.losses import CrossEntropy
from core.models import MLP, SmallCNN
from core.optimizers import SGD
from core.schedules import Cosine
from core.stopping import EarlyStopping
from data import Digits

EXPERIMENT = Experiment(
    data=Digits(),
    model=SmallCNN(widths=(32, 64)),
    augment=(RandomCrop(padding=1),),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    stopping=EarlyStopping(patience=15, metric="val/loss"),
    select="val/loss",
    epochs=30,
    batch_size=64,
)
VARIANTS = {
    "mlp": {"model": MLP(hidden=(128, 128)), "augment": ()},
    "plain": {"augment": (), "loss.label_smoothing": 0.0},
}
