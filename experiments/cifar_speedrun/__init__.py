"""How long does 94 % on CIFAR-10 take?

    python -m experiments.cifar_speedrun                          train; CIFAR-10 is downloaded once (163 MB)
    python -m experiments.cifar_speedrun --root PATH --seeds 3    the archive, its batches, or image folders
    python -m experiments.cifar_speedrun --variant micro_batches  a third of the memory: BatchNorm sees 250 images

Expected: 90.44 % +- 0.35 on CIFAR-10 (JPEG, n = 3); README.md has the recipe, that of airbench94_muon, and its sources.
"""

from core.augment import AlternatingFlip, HorizontalFlip, RandomCrop
from core.experiment import Experiment
from core.losses import CrossEntropy
from core.models import Airbench
from core.models.freeze import Freeze
from core.optimizers import SGD, Muon
from core.schedules import Polynomial
from data import Cifar10

BATCH = 2000
INPUTS = 256  # of the linear layer, see Airbench
DECAY = 2e-6 * BATCH  # of the linear layer, with its learning rate
# The script's learning rates are for the sum of the losses over a batch, and ours for their mean.
HEAD_LR = 0.67 * BATCH / INPUTS**2
BIAS_LR = 0.053 * BATCH
SHIFT = RandomCrop(padding=2, reflect=True)

EXPERIMENT = Experiment(
    data=Cifar10(val_fraction=0.02),
    model=Airbench(),
    freeze=Freeze(up_to="whiten", from_epoch=3),
    augment=(AlternatingFlip(), SHIFT),
    loss=CrossEntropy(label_smoothing=0.2),
    optimizer=Muon(
        lr=0.24,
        momentum=0.6,
        ns_steps=3,
        normalize_weights=True,
        rest=SGD(lr=HEAD_LR, momentum=0.85, nesterov=True, weight_decay=DECAY / HEAD_LR),
        groups={"*.bias": BIAS_LR / HEAD_LR},
    ),
    schedule=Polynomial(),
    epochs=8,
    batch_size=BATCH,
    precision="bf16",
    monitor="val/loss",
    tta="flip_shift_half",
)
VARIANTS = {
    "random_flip": {"augment": (HorizontalFlip(), SHIFT)},
    "micro_batches": {"grad_accum_steps": 8},
}
