"""An experiment in float64, in which sums over processes can be compared to rounding.

python -m tests.support.doubled
"""

import torch
from torch import nn

from core.augment import HorizontalFlip, Mixup, RandomCrop
from core.cli.main import experiment
from core.experiment import Experiment
from core.methods import Method, Output
from core.models import SmallCNN
from core.optimizers import SGD
from data import Digits


class DoubleCNN(SmallCNN):
    """SmallCNN in float64."""

    def network(self, context):
        return nn.Sequential(Doubled(), super().network(context)).double()


class Doubled(nn.Module):
    def forward(self, images):
        return images.double()


class PoisonedAt(Method):
    """The loss of one image is not a number."""

    sample: int = 13

    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        losses = loss(logits, batch.targets)
        return Output(torch.where((batch.index == self.sample) & (clock.step > 30), torch.nan, losses), logits)


EXPERIMENT = Experiment(
    data=Digits(),
    model=DoubleCNN(widths=(8, 16), norm="group"),
    augment=(RandomCrop(padding=1), HorizontalFlip(), Mixup()),
    optimizer=SGD(lr=0.05, nesterov=True, weight_decay=1e-4),
    epochs=2,
    batch_size=60,
    clip_grad_norm=1.0,
    grad_accum_steps=3,
)

if __name__ == "__main__":
    experiment("tests.support.doubled")
