"""What several experiments share."""

from core.experiment import Experiment
from core.losses import CrossEntropy
from core.models import SmallCNN
from core.optimizers import SGD
from core.schedules import Cosine
from data import Digits

# 287 digits to train, 72 to validate, 1,438 to test: a point of test accuracy is 14 images
FEW_DIGITS = Experiment(
    data=Digits(test_fraction=0.8, val_fraction=0.2),
    model=SmallCNN(widths=(32, 64)),
    loss=CrossEntropy(),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    select="val/loss",
    epochs=40,
    batch_size=32,
)
