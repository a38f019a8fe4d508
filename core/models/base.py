"""Model, the base of declared networks, and what any of them may declare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from pydantic import Field
from torch import nn

from core.common.terminal import tell
from core.context import Context
from core.declare.part import Part
from core.models.hooks import keep_in_fp32, recompute
from core.models.initialize import initialize
from core.models.pretrained import Origin, find, read
from core.models.transfer import adapt


class Model(Part, ABC):
    """Base of models. One's own model is one `network(context)`; what stands here applies to every model.

    None of it renames a weight: a network loads into the same network with other choices here.
    """

    weights: str | None = Field(
        None,
        description="pretrained: torchvision's by name (IMAGENET1K_V1), a finished run, or a file (.safetensors, or a "
        "state dict of torch.save); none: drawn",
    )
    init: Literal["default", "kaiming", "xavier", "orthogonal"] = Field(
        "default", description="first weights; default: as the architecture has them"
    )
    grad_checkpointing: bool = Field(
        False, description="compute blocks again in the backward pass instead of keeping them: less memory, more time"
    )
    fp32: tuple[str, ...] = Field(
        (), description="modules kept in fp32 under bf16 or fp16, by name, with *, e.g. fc,layer4.*"
    )

    def build(self, context: Context) -> nn.Module:
        """The network, from images float [N, C, H, W] to logits [N, classes], freshly initialized.

        With `weights`, its head is drawn all the same where the classes are others. Raises ValueError for images that
        it cannot take, for weights that do not fit and for names in fp32 that it lacks.
        """
        network = self.network(context)
        if self.init != "default":
            initialize(network, self.init)
        if origin := self.origin():
            self._load(network, origin, context)
        if self.grad_checkpointing and not recompute(network):
            raise ValueError(
                f"model.grad_checkpointing: {self.label()} has no chain of blocks that could be computed again"
            )
        keep_in_fp32(network, self.fp32)
        return network

    def origin(self) -> Origin | None:
        """Where the declared weights are from; None for drawn ones. Raises UserError where there are none such."""
        return find(self.weights, self.published()) if self.weights else None

    def published(self) -> str | None:
        """The name by which torchvision offers weights for this network; None where it does not."""
        return None

    def _load(self, network: nn.Module, origin: Origin, context: Context) -> None:
        same = origin.classes is None or origin.classes == context.classes
        told = f"weights of {origin.name} ({origin.path.name}, sha256 {origin.sha256[:12]})"
        came = adapt(network, read(origin.path), len(context.classes), same, f"model.weights: {told}")
        if not context.rank:
            tell(f"{told}: {came.told()}")

    @abstractmethod
    def network(self, context: Context) -> nn.Module:
        """A network for context.image_shape and context.classes."""
