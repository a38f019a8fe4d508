"""Base classes of optimizers: parameter groups with their learning rates and weight decay."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Self

import torch
from pydantic import Field, field_validator
from torch import nn

from core.common.text import did_you_mean
from core.declare.part import Part
from core.optimizers.layerwise import layers

Multiplier = Annotated[float, Field(ge=0)]
Named = Mapping[str, nn.Parameter]


class Optimizer(Part, ABC):
    """Base class of optimizers. One with a learning rate of its own is a Descent; SAM wraps another optimizer."""

    @abstractmethod
    def build(self, trained: nn.Module, scaled: bool = False) -> torch.optim.Optimizer:
        """A torch optimizer of all parameters of `trained` that require gradients; its `step` takes a closure.

        trained: a model, or a ModuleDict with "model" and optionally other modules.  scaled: whether a gradient scaler
        (fp16) is used. The schedule multiplies "initial_lr" of each parameter group. Raises ValueError if the optimizer
        does not support the model or the precision.
        """

    def for_batches_of(self, images: int) -> Self:
        """This optimizer with the learning rates of steps with this many images over all processes; see lr_per."""
        changes: dict[str, Any] = {}
        for prefix, part in [("", self), *((f"{name}.", part) for name, part in self.parts())]:
            if per := getattr(part, "lr_per", None):
                changes |= {f"{prefix}lr": part.lr * images / per, f"{prefix}lr_per": None}  # type: ignore[attr-defined]
        return self.but(changes) if changes else self

    def rate_name(self) -> str:
        """Dotted name, below this part, of the learning rate that the schedule multiplies."""
        return next((name for name in self.flat() if name.rsplit(".", 1)[-1] == "lr"), "lr")


class Descent(Optimizer, ABC):
    """Base class of optimizers with a learning rate, which `layer_decay` and `groups` vary between parameters.

    Biases and the parameters of normalization layers (all parameters of fewer than two dimensions) have no weight
    decay, unless decay_all is set. The learning rate of a parameter is
    lr * layer_decay ** (number of layers after it) * multiplier of the first matching pattern * schedule multiplier.
    Parameters of a loss or a method are treated as part of the last layer.
    """

    lr: float = Field(0.1, gt=0, description="learning rate, before the multiplier of the schedule")
    weight_decay: float = Field(
        0.0, ge=0, description="weight decay coefficient; not applied to biases and normalization layers"
    )
    lr_per: int | None = Field(
        None,
        ge=1,
        description="number of images per step that lr is meant for, such as 256: the learning rate is lr * images per "
        "step / lr_per (linear scaling, Goyal et al. 2017, section 2.1); none: it is lr",
    )
    decay_all: bool = Field(
        False, description="apply weight decay to biases and normalization layers, too, as optimizers of torch do"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="layer-wise learning rate decay: factor for each layer or block before the last"
    )
    groups: tuple[tuple[str, Multiplier], ...] = Field(
        (),
        description="learning rate multipliers by parameter name pattern, e.g. fc.*=10,bn*=0; the first match is used",
    )

    @field_validator("groups", mode="before")
    @classmethod
    def _groups_are_pairs(cls, value: Any) -> Any:
        pairs = value.items() if isinstance(value, dict) else value
        return tuple(map(_pair, pairs)) if isinstance(value, dict | list | tuple) else value

    def build(self, trained: nn.Module, scaled: bool = False) -> torch.optim.Optimizer:
        return with_initial_rates(self.over(self.grouped(trainable(trained), self.multipliers(trained))))

    @abstractmethod
    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """A torch optimizer of these parameter groups, fused if torch supports it: a fused step takes `found_inf`, so
        that it can be skipped on the device (see core/training/step.py)."""

    def multipliers(self, trained: nn.Module) -> dict[str, float]:
        """Parameter name -> multiplier of lr. Raises ValueError for a pattern that matches no parameter."""
        rates = dict.fromkeys(trainable(trained), 1.0)
        if self.layer_decay < 1:
            rates |= _by_depth(trained, self.layer_decay)
        for pattern, _ in self.groups:
            if not any(fnmatchcase(name, pattern) for name in rates):
                raise ValueError(f"optimizer.groups: no parameter matches {pattern}{_hint(pattern, list(rates))}")
        for name in rates:
            rates[name] *= next((factor for pattern, factor in self.groups if fnmatchcase(name, pattern)), 1.0)
        if not any(rates.values()):
            raise ValueError("optimizer.groups: every learning rate would be 0; remove a pattern with multiplier 0")
        return rates

    def grouped(self, parameters: Named, multipliers: Mapping[str, float]) -> list[dict[str, Any]]:
        """torch parameter groups, one for each pair of learning rate and weight decay. The group whose learning rate is
        closest to lr comes first, because the rate of the first group is the one that is logged."""
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        for name, parameter in parameters.items():
            factor, without_decay = multipliers[name], parameter.ndim < 2 and self._spares
            decay = 0.0 if without_decay else self.weight_decay
            group = {"params": [], "weight_decay": decay, "lr": self.lr * factor}
            groups.setdefault((factor, without_decay), group)["params"].append(parameter)
        return [groups[key] for key in sorted(groups, key=lambda key: (_distance_from_one(key[0]), key[1]))]

    @property
    def _spares(self) -> bool:
        """Whether some parameters have no weight decay and others have."""
        return self.weight_decay > 0 and not self.decay_all


def trainable(trained: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, for all parameters that require gradients; names in the model without the prefix "model."."""
    return {name.removeprefix("model."): p for name, p in trained.named_parameters() if p.requires_grad}


def model_of(trained: nn.Module) -> nn.Module:
    """The network among the trained modules."""
    return trained["model"] if isinstance(trained, nn.ModuleDict) and "model" in trained else trained


def with_initial_rates(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, with the learning rate of each group stored as "initial_lr", which the schedule multiplies."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _by_depth(trained: nn.Module, decay: float) -> dict[str, float]:
    """Parameter name -> decay ** (number of layers after it); 1 for parameters outside the model."""
    ordered = layers(model_of(trained))
    power = {id(p): len(ordered) - 1 - depth for depth, layer in enumerate(ordered) for p in layer}
    return {name: decay ** power.get(id(p), 0) for name, p in trainable(trained).items()}


def _distance_from_one(factor: float) -> float:
    return abs(math.log(factor)) if factor else math.inf


def _pair(item: Any) -> Any:
    if not isinstance(item, str):
        return item
    pattern, equals, factor = item.rpartition("=")
    if not equals:
        raise ValueError(f"should be pattern=multiplier, such as fc.*=10, not {item}")
    return pattern.strip(), factor


def _hint(pattern: str, names: list[str]) -> str:
    """The end of a message: similar patterns that would match, or else the first parameter names."""
    below = dict.fromkeys(f"{name[:i]}.*" for name in names for i, letter in enumerate(name) if letter == ".")
    known = f"; parameter names: {', '.join(names[:8])}" + ", ..." * (len(names) > 8)
    return did_you_mean(pattern, [*below, *names]) or known
