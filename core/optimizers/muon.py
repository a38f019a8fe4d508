"""Muon: SGD with momentum whose updates of weight matrices are orthogonalized."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from core.optimizers.base import Descent, model_of, trainable, with_initial_rates
from core.optimizers.composite import Closure, Composite, evaluate
from core.optimizers.torch_optimizers import AdamW

# coefficients of a x + b x^3 + c x^5, whose iteration maps singular values in (0, 1] to about 1 (Jordan et al. 2024)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(Descent):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the weights of hidden linear and convolution
    layers; the optimizer `rest` updates all other parameters.

    As in the source, the weight of a convolution is treated as a matrix [out, in * height * width], and the first and
    the last of these layers in order of definition, normalization layers, biases and embeddings are left to `rest`.
    Grouped and depthwise convolutions, whose rows have different inputs, are left to `rest` as well. lr, weight_decay
    (decoupled from the gradient) and momentum apply to the matrices; layer_decay and groups apply to all parameters.
    normalize_weights is of the script airbench94_muon (github.com/KellerJordan/cifar10-airbench).
    """

    lr: float = Field(0.02, gt=0, description="learning rate of the matrices, before the multiplier of the schedule")
    momentum: float = Field(0.95, ge=0, lt=1, description="momentum factor: decay of the running mean of gradients")
    nesterov: bool = Field(True, description="use Nesterov momentum")
    ns_steps: int = Field(5, ge=1, le=20, description="number of Newton-Schulz iterations for the orthogonalization")
    adjust_lr_fn: Literal["original", "match_rms_adamw"] = Field(
        "original",
        description="scaling of the learning rate by matrix shape. original: lr * sqrt(max(1, rows / columns)); "
        "match_rms_adamw: lr * 0.2 * sqrt(max(rows, columns)), for learning rates tuned for AdamW (Liu et al. 2025, "
        "equation 4)",
    )
    normalize_weights: bool = Field(
        False,
        description="scale each matrix to the norm sqrt(rows) before each step, so that lr is relative to it; needs "
        "weight_decay 0",
    )
    rest: Descent = Field(
        AdamW(lr=1e-3), description="optimizer of all other parameters, with its own lr and weight_decay"
    )

    def check(self) -> None:
        if isinstance(self.rest, Muon):
            raise ValueError("rest must be an optimizer other than Muon")
        if self.normalize_weights and self.weight_decay:
            raise ValueError("normalize_weights undoes weight_decay; set weight_decay to 0")
        if self.rest.groups or self.rest.layer_decay < 1:
            raise ValueError("rest uses groups and layer_decay of Muon; set optimizer.groups and optimizer.layer_decay")

    def build(self, trained: nn.Module, scaled: bool = False) -> torch.optim.Optimizer:
        parameters, multipliers = trainable(trained), self.multipliers(trained)
        hidden = _hidden(model_of(trained))
        if not any(id(p) in hidden for p in parameters.values()):
            raise ValueError(
                "optimizer: Muon needs trainable hidden layers, and this model has none; use another optimizer"
            )
        matrices = {name: p for name, p in parameters.items() if id(p) in hidden}
        others = {name: p for name, p in parameters.items() if id(p) not in hidden}
        rest = self.rest.over(self.rest.grouped(others, multipliers))
        inner = self.over(self.grouped(matrices, multipliers))
        for group in inner.param_groups:
            group["fused"] = bool(rest.param_groups[0].get("fused"))
        return with_initial_rates(Composite([inner, rest]))

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        scaled = self.normalize_weights
        return Orthogonalized(groups, self.momentum, self.nesterov, self.ns_steps, self.adjust_lr_fn, scaled)


class Orthogonalized(torch.optim.Optimizer):
    """Muon's update for weights of two or more dimensions, each treated as a matrix [out, -1].

    It equals torch.optim.Muon, which supports only 2D parameters. A step is skipped on the device if `found_inf` is
    set, as in fused optimizers. normalize_weights: see Muon.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        adjust_lr_fn: str,
        normalize_weights: bool = False,
    ):
        super().__init__(groups, {"fused": True, "momentum": momentum})
        self.nesterov, self.ns_steps, self.adjust_lr_fn = nesterov, ns_steps, adjust_lr_fn
        self.normalize_weights = normalize_weights
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """Take a step; returns the loss of the closure."""
        loss = evaluate(closure)
        flag = getattr(self, "found_inf", None)
        skip = None if flag is None else flag.bool()
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                self._update(p, group, skip)
        return loss

    def _update(self, p: torch.Tensor, group: dict[str, Any], skip: torch.Tensor | None) -> None:
        """Update one weight and its momentum, unless `skip` is true, without synchronizing with the device."""
        assert p.grad is not None
        buffer, keep = self.state[p]["momentum_buffer"], group["momentum"]
        mean = buffer.lerp(p.grad, 1 - keep)
        ahead = p.grad.lerp(mean, keep) if self.nesterov else mean
        matrix = ahead.flatten(1)
        update = orthogonalized(matrix, self.ns_steps).view(p.shape)
        scale = adjustment(self.adjust_lr_fn, *matrix.shape)
        kept = len(p) ** 0.5 / p.norm() if self.normalize_weights else 1 - group["lr"] * group["weight_decay"]
        moved = (p * kept).add_(update, alpha=-group["lr"] * scale)
        buffer.copy_(mean if skip is None else torch.where(skip, buffer, mean))
        p.copy_(moved if skip is None else torch.where(skip, p, moved))

    def __getstate__(self) -> dict[str, Any]:
        own = {"nesterov": self.nesterov, "ns_steps": self.ns_steps, "adjust_lr_fn": self.adjust_lr_fn}
        return super().__getstate__() | own | {"normalize_weights": self.normalize_weights}


def orthogonalized(matrix: torch.Tensor, ns_steps: int) -> torch.Tensor:
    """Approximately U V^T for a matrix U S V^T, bfloat16 [rows, columns]; its singular values are about 0.7 to 1.2.

    Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X (Jordan et al. 2024), transposed if that makes X X^T
    smaller.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(torch.bfloat16, copy=True)
    x /= x.norm().clamp(min=1e-7)
    for _ in range(ns_steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).contiguous()


def adjustment(kind: str, rows: int, columns: int) -> float:
    """Multiplier of the learning rate for a matrix of this shape; see Muon.adjust_lr_fn."""
    return 0.2 * math.sqrt(max(rows, columns)) if kind == "match_rms_adamw" else math.sqrt(max(1, rows / columns))


def _hidden(model: nn.Module) -> set[int]:
    """ids of the weights of all linear and ungrouped convolution layers except the first and the last."""
    weights = [
        module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.MultiheadAttention)
    ]
    ungrouped = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups > 1
    }
    return {id(weight) for weight in weights[1:-1] if weight is not None} - ungrouped
