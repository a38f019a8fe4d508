"""Optimizers: a declaration builds a torch.optim.Optimizer over what is trained."""

from core.optimizers.base import Descent, Optimizer
from core.optimizers.classic import SGD, Adam, AdamW, RMSprop
from core.optimizers.muon import Muon
from core.optimizers.sam import SAM

__all__ = ["SAM", "SGD", "Adam", "AdamW", "Descent", "Muon", "Optimizer", "RMSprop"]
