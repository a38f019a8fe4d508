"""What every optimizer shares: which parameters move at which rate, and with which decay."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator
from torch import nn

from core.common.text import did_you_mean
from core.declare.part import Part
from core.optimizers.layerwise import layers

Multiplier = Annotated[float, Field(ge=0)]
Named = Mapping[str, nn.Parameter]


class Optimizer(Part, ABC):
    """Base of optimizers. One that moves weights by a gradient of its own is a Descent; SAM is about another."""

    @abstractmethod
    def build(self, trained: nn.Module, scaled: bool = False) -> torch.optim.Optimizer:
        """torch's optimizer of every parameter of `trained` that requires a gradient; its `step` takes a closure.

        trained: a ModuleDict with "model" and perhaps more, or a model.  scaled: fp16's gradient scaler will be in
        front of it. Each group's "initial_lr" is what the schedule multiplies. Raises ValueError for what this model
        or precision does not allow.
        """

    def rate_name(self) -> str:
        """Dotted name, below this part, of the learning rate that the schedule multiplies."""
        return next((name for name in self.flat() if name.rsplit(".", 1)[-1] == "lr"), "lr")


class Descent(Optimizer, ABC):
    """Base of optimizers with a learning rate, which differs between parameters as `layer_decay` and `groups` say.

    Weight decay spares norms and biases (every parameter of fewer than two dimensions). A rate is
    lr * layer_decay ** (layers after it) * multiplier of the first pattern that matches * the schedule's multiplier.
    Parameters of a loss or a method count as of the last layer.
    """

    lr: float = Field(0.1, gt=0, description="learning rate before the schedule's multiplier")
    weight_decay: float = Field(0.0, ge=0, description="decay of weights; norms and biases are spared")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="multiplies the learning rate once for each layer or block from the last back"
    )
    groups: tuple[tuple[str, Multiplier], ...] = Field(
        (), description="parameter names and what multiplies their learning rate: fc.*=10,bn*=0; the first match counts"
    )

    @field_validator("groups", mode="before")
    @classmethod
    def _groups_are_pairs(cls, value: Any) -> Any:
        pairs = value.items() if isinstance(value, dict) else value
        return tuple(map(_pair, pairs)) if isinstance(value, dict | list | tuple) else value

    def build(self, trained: nn.Module, scaled: bool = False) -> torch.optim.Optimizer:
        return with_initial_rates(self.over(self.grouped(moving(trained), self.multipliers(trained))))

    @abstractmethod
    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's optimizer over these parameter groups. Fused where torch offers it: a fused step takes
        `found_inf` and so can be called off on the device (see step.py)."""

    def multipliers(self, trained: nn.Module) -> dict[str, float]:
        """Parameter name -> what multiplies lr. Raises ValueError for a pattern that matches no name."""
        rates = dict.fromkeys(moving(trained), 1.0)
        if self.layer_decay < 1:
            rates |= _by_depth(trained, self.layer_decay)
        for pattern, _ in self.groups:
            if not any(fnmatchcase(name, pattern) for name in rates):
                raise ValueError(f"optimizer.groups: no parameter is named {pattern}{_hint(pattern, list(rates))}")
        for name in rates:
            rates[name] *= next((factor for pattern, factor in self.groups if fnmatchcase(name, pattern)), 1.0)
        if not any(rates.values()):
            raise ValueError("optimizer.groups: every rate would be 0; leave out what is to move")
        return rates

    def grouped(self, parameters: Named, multipliers: Mapping[str, float]) -> list[dict[str, Any]]:
        """torch's parameter groups: one for each rate and decay. The first is nearest to lr itself, for it is what is
        reported as the learning rate."""
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        for name, parameter in parameters.items():
            factor, spared = multipliers[name], parameter.ndim < 2 and self.weight_decay > 0
            decay = 0.0 if spared else self.weight_decay
            group = {"params": [], "weight_decay": decay, "lr": self.lr * factor}
            groups.setdefault((factor, spared), group)["params"].append(parameter)
        return [groups[key] for key in sorted(groups, key=lambda key: (_far_from_one(key[0]), key[1]))]


def moving(trained: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> every parameter that requires a gradient; those of the model without "model." in front."""
    return {name.removeprefix("model."): p for name, p in trained.named_parameters() if p.requires_grad}


def model_of(trained: nn.Module) -> nn.Module:
    """The network among what is trained."""
    return trained["model"] if isinstance(trained, nn.ModuleDict) and "model" in trained else trained


def with_initial_rates(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, each group's rate noted as what the schedule multiplies."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _by_depth(trained: nn.Module, decay: float) -> dict[str, float]:
    """Parameter name -> decay to the power of the number of layers after it, for those of the model."""
    ordered = layers(model_of(trained))
    power = {id(p): len(ordered) - 1 - depth for depth, layer in enumerate(ordered) for p in layer}
    return {name: decay ** power.get(id(p), 0) for name, p in moving(trained).items()}


def _far_from_one(factor: float) -> float:
    return abs(math.log(factor)) if factor else math.inf


def _pair(item: Any) -> Any:
    if not isinstance(item, str):
        return item
    pattern, equals, factor = item.rpartition("=")
    if not equals:
        raise ValueError(f"should be pattern=multiplier, such as fc.*=10, not {item}")
    return pattern.strip(), factor


def _hint(pattern: str, names: list[str]) -> str:
    """Spellings of the same kind that would match: names, or modules with all that is below them."""
    below = dict.fromkeys(f"{name[:i]}.*" for name in names for i, letter in enumerate(name) if letter == ".")
    return did_you_mean(pattern, [*below, *names]) or f"; there are {', '.join(names[:8])}" + ", ..." * (len(names) > 8)
