"""Model, the base of declared networks, and what any of them may declare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from pydantic import Field
from torch import nn

from core.context import Context
from core.models.initial import initialise
from core.models.wiring import keep_in_fp32, recompute
from core.part import Part


class Model(Part, ABC):
    """Base of models. One's own model is one `network(context)`; what stands here applies to every model.

    None of it renames a weight: a network loads into the same network with other choices here.
    """

    init: Literal["default", "kaiming", "xavier", "orthogonal"] = Field(
        "default", description="first weights; default: as the architecture has them"
    )
    checkpointing: bool = Field(
        False, description="compute blocks again in the backward pass instead of keeping them: less memory, more time"
    )
    fp32: tuple[str, ...] = Field(
        (), description="modules kept in fp32 under bf16 or fp16, by name, with *, e.g. fc,layer4.*"
    )

    def build(self, context: Context) -> nn.Module:
        """The network, from images float [N, C, H, W] to logits [N, classes], freshly initialised.

        Raises ValueError for images that it cannot take and for names in fp32 that it lacks.
        """
        network = self.network(context)
        if self.init != "default":
            initialise(network, self.init)
        if self.checkpointing and not recompute(network):
            raise ValueError(f"model.checkpointing: {self.label()} has no chain of blocks that could be computed again")
        keep_in_fp32(network, self.fp32)
        return network

    @abstractmethod
    def network(self, context: Context) -> nn.Module:
        """A network for context.image_shape and context.classes."""
