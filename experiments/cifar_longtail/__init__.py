"""On long-tailed data, which helps more: a loss that uses class counts, or class-balanced sampling?

    python -m experiments.cifar_longtail --precision bf16 --seeds 3                      a margin per class (loss.py)
    python -m experiments.cifar_longtail --precision bf16 --seeds 3 --variant plain      cross-entropy
    python -m experiments.cifar_longtail --precision bf16 --seeds 3 --variant adjusted   logits shifted by the prior
    python -m experiments.cifar_longtail --precision bf16 --seeds 3 --variant weighted   examples weighted by class
    python -m experiments.cifar_longtail --precision bf16 --seeds 3 --variant balanced   class-balanced batches

Class i of 10 keeps a fraction 50^(-i/9) of its training images; validation and test remain balanced.

Expected: 63.5 % +- 1.4 (test accuracy on CIFAR-10 (JPEG), n = 3), logit adjustment 72.1 % +- 1.0 (README.md);
4 min a seed on one core with bf16 instructions, torch 2.15.
"""

from core.loading.sampling import ClassBalanced as BalancedBatches
from core.loading.sampling import LongTail
from core.losses import ClassBalanced, CrossEntropy, LogitAdjusted
from experiments.cifar_longtail.loss import MarginByClass
from experiments.recipes import SMALL_CIFAR

EXPERIMENT = SMALL_CIFAR.but({"long_tail": LongTail(factor=50), "loss": MarginByClass(margin=2.0), "epochs": 30})
VARIANTS = {
    "plain": {"loss": CrossEntropy()},
    "adjusted": {"loss": LogitAdjusted(tau=1.0)},
    "weighted": {"loss": ClassBalanced(beta=0.999)},
    "balanced": {"loss": CrossEntropy(), "sampling": BalancedBatches()},
}
