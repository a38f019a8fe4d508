"""Model, the base class of declared networks, with the options that all of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from core.common.terminal import tell
from core.context import Context
from core.declare.part import Part
from core.declare.tree import choices
from core.models.hooks import keep_in_fp32, recompute
from core.models.initialize import Init, initialize, refuse
from core.models.narrow import narrow
from core.models.pretrained import Origin, find, read
from core.models.transfer import adapt
from core.models.weights import holds_narrowed
from core.record.named import id_of_latest


class Model(Part, ABC):
    """Base class of models. A custom model implements `network(context)`; the options below apply to every model.

    They do not change the names of parameters, so that a state dict loads into the same network with other options.
    """

    weights: str | None = Field(
        None,
        description="pretrained weights: a name of torchvision's (IMAGENET1K_V1) or timm's (DEFAULT), a finished "
        "run, or a file (.safetensors, or a state dict saved with torch.save); none: random initialization",
    )
    init: Init = Field(
        "default",
        description="initialization of linear and convolution layers, a function of torch.nn.init; default: the "
        "initialization of the architecture; kaiming, xavier and orthogonal: for ReLU",
    )
    init_arguments: dict[str, Any] = Field(
        {}, description="keyword arguments of the initialization, such as a std of 0.02 for normal, which has 1"
    )
    grad_checkpointing: bool = Field(
        False, description="gradient checkpointing: recompute activations in the backward pass to save memory"
    )
    fp32: tuple[str, ...] = Field(
        (), description="names of modules that compute in fp32 under bf16 or fp16; * is a wildcard, e.g. fc,layer4.*"
    )

    @field_validator("weights")
    @classmethod
    def _named_by_id(cls, weights: str | None) -> str | None:
        """With the id in place of `latest`, so that runs that began with other weights are other settings."""
        return weights and id_of_latest(weights)

    @field_validator("init_arguments")
    @classmethod
    def _init_takes_them(cls, arguments: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "init" in info.data:  # else init itself is wrong
            refuse(info.data["init"], arguments)
        return arguments

    @classmethod
    def hint(cls, name: str) -> str:
        """The class that makes a network of this name."""
        kind = next((kind for kind in choices(cls).values() if kind.has(name)), None)
        return f"; use {kind.__name__}: --model {kind.__name__} --model.name {name}" if kind else ""

    @classmethod
    def has(cls, name: str) -> bool:
        """Whether the class makes networks by name, and one of this name."""
        return False

    def build(self, context: Context) -> nn.Module:
        """The network, from images, float [N, C, H, W], to logits [N, classes], initialized or with `weights` loaded.

        The head is always initialized if the classes of the weights differ from those of the data. Raises ValueError
        for images that the network does not support and for names in fp32 that match no module, UserError for weights
        that do not fit.
        """
        network = self.network(context)
        if self.init != "default":
            initialize(network, self.init, self.init_arguments)
        if origin := self.origin():
            self._load(network, origin, context)
        if self.grad_checkpointing and not recompute(network):
            raise ValueError(
                f"model.grad_checkpointing: {self.label()} has no nn.Sequential of layers with weights to checkpoint; "
                "set it to false"
            )
        keep_in_fp32(network, self.fp32)
        return network

    def origin(self) -> Origin | None:
        """Where the pretrained weights come from; None without. Raises UserError if they are not found."""
        return find(self.weights, self.published()) if self.weights else None

    def published(self) -> str | None:
        """The name of this network in torchvision, if torchvision has pretrained weights for it; otherwise None."""
        return None

    def tensors(self, origin: Origin, context: Context) -> tuple[dict[str, torch.Tensor], str]:
        """The weights, and a note for the user or an empty text. Raises UserError if they cannot be read."""
        return read(origin.path)

    def _load(self, network: nn.Module, origin: Origin, context: Context) -> None:
        same = origin.classes is None or origin.classes == context.classes
        source = f"weights of {origin.name} ({origin.path.name}, sha256 {origin.sha256[:12]})"
        weights, note = self.tensors(origin, context)
        if holds_narrowed(origin.path):
            narrow(network, weights)
        adapted = adapt(network, weights, len(context.classes), same, f"model.weights: {source}")
        if not context.rank:
            tell(f"{source}: {adapted.summary()}{f'; {note}' if note else ''}")

    @abstractmethod
    def network(self, context: Context) -> nn.Module:
        """A network for context.image_shape and context.classes."""
