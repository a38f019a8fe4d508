"""Does a small network learn more from the outputs of a larger one than from the labels?

    python -m experiments.cifar_cnn --precision bf16                                the teacher; it prints its run's id
    python -m experiments.cifar_distill --precision bf16 --seeds 3                  the student, from labels only
    python -m experiments.cifar_distill --precision bf16 --seeds 3 --variant large  a network of the teacher's size
    python -m experiments.cifar_distill --precision bf16 --seeds 3 --method Distill --method.teacher RUN

Expected: 75.3 % +- 1.2 (test accuracy on CIFAR-10 (JPEG), n = 3), distilled 76.1 % +- 0.3 (README.md); 5 to 8 min a
seed on one core with bf16 instructions, torch 2.15.
"""

from core.models import SmallCNN
from experiments.recipes import SMALL_CIFAR

EXPERIMENT = SMALL_CIFAR.but({"model": SmallCNN(widths=(8, 16, 32))})
VARIANTS = {"large": {"model": SMALL_CIFAR.model}}
