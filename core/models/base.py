"""Model, the base of declared networks."""

from abc import ABC, abstractmethod

from torch import nn

from core.context import Context
from core.part import Part


class Model(Part, ABC):
    """Base of models."""

    @abstractmethod
    def build(self, context: Context) -> nn.Module:
        """A network for context.image_shape and context.classes, freshly initialised."""
