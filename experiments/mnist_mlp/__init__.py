"""How far does a fully connected network, 784-128-64-10, get on MNIST?

    python -m experiments.mnist_mlp                     MNIST is downloaded (12 MB) or read from --root
    python -m experiments.mnist_mlp --variant digits    without MNIST: the digits of scikit-learn, 64-128-64-10
    python -m experiments.mnist_mlp --seeds 5

Expected: 98.16 % +- 0.31 on the digits (n = 5); there is no figure for MNIST, see README.md
"""

from core.experiment import Experiment
from core.models import MLP
from core.optimizers import AdamW
from core.schedules import Cosine
from core.search import Float
from data import Digits, Mnist

EXPERIMENT = Experiment(
    data=Mnist(),
    model=MLP(hidden=(128, 64)),
    optimizer=AdamW(lr=1e-3, weight_decay=0.01),
    schedule=Cosine(warmup_epochs=1),
    epochs=10,
    batch_size=128,
)
VARIANTS = {"digits": {"data": Digits(), "epochs": 60, "batch_size": 64}}
SPACE = {"optimizer.lr": Float(1e-4, 1e-2, log=True), "optimizer.weight_decay": Float(1e-4, 1.0, log=True)}
