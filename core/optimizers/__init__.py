"""Optimizers: declarations that build a torch.optim.Optimizer for the parameters being trained."""

from core.optimizers.base import Descent, Optimizer
from core.optimizers.muon import Muon
from core.optimizers.sam import SAM
from core.optimizers.torch_optimizers import SGD, Adam, AdamW, RMSprop
from core.optimizers.zoo import OptimizerByName

__all__ = ["SAM", "SGD", "Adam", "AdamW", "Descent", "Muon", "Optimizer", "OptimizerByName", "RMSprop"]
