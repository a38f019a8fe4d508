"""Muon: momentum whose matrices are orthogonalized."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from core.optimizers.base import Descent, model_of, moving, with_initial_rates
from core.optimizers.composite import Closure, Composite, computed
from core.optimizers.torch_optimizers import AdamW

# of the quintic a x + b x^3 + c x^5 whose iterates take any singular value in (0, 1] to about 1 (Jordan et al. 2024)
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(Descent):
    """Momentum, orthogonalized, for the weights of hidden linear and convolution layers (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon); `rest` moves everything else.

    As there: a convolution's weights count as a matrix [out, in * height * width]; the first and the last of these
    layers in order of definition, norms, biases and embeddings are left to `rest`. So are grouped and depthwise
    convolutions, whose rows do not share their inputs. lr, weight_decay (apart from the gradient) and momentum are of
    the matrices; layer_decay and groups of all parameters.
    """

    lr: float = Field(0.02, gt=0, description="learning rate of the matrices before the schedule's multiplier")
    momentum: float = Field(0.95, ge=0, lt=1, description="share of the running mean of gradients kept at a step")
    nesterov: bool = Field(True, description="look ahead along the momentum")
    ns_steps: int = Field(5, ge=1, le=20, description="of Newton and Schulz, to orthogonalize")
    adjust_lr_fn: Literal["original", "match_rms_adamw"] = Field(
        "original",
        description="original: lr * sqrt(max(1, rows / columns)); match_rms_adamw: lr * 0.2 sqrt(max(rows, columns)), "
        "so that AdamW's rates serve (Liu et al. 2025, equation 4)",
    )
    rest: Descent = Field(AdamW(lr=1e-3), description="moves all that is no hidden layer's matrix, at its own lr")

    def check(self) -> None:
        if isinstance(self.rest, Muon):
            raise ValueError("rest must be another optimizer than Muon")
        if self.rest.groups or self.rest.layer_decay < 1:
            raise ValueError("rest takes groups and layer_decay from Muon itself: set them there")

    def build(self, trained: nn.Module, scaled: bool = False) -> torch.optim.Optimizer:
        parameters, multipliers = moving(trained), self.multipliers(trained)
        hidden = _hidden(model_of(trained))
        if not any(id(p) in hidden for p in parameters.values()):
            raise ValueError("optimizer: Muon moves hidden layers, and this model has none between first and last")
        matrices = {name: p for name, p in parameters.items() if id(p) in hidden}
        others = {name: p for name, p in parameters.items() if id(p) not in hidden}
        rest = self.rest.over(self.rest.grouped(others, multipliers))
        inner = self.over(self.grouped(matrices, multipliers))
        for group in inner.param_groups:
            group["fused"] = bool(rest.param_groups[0].get("fused"))
        return with_initial_rates(Composite([inner, rest]))

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return Orthogonalized(groups, self.momentum, self.nesterov, self.ns_steps, self.adjust_lr_fn)


class Orthogonalized(torch.optim.Optimizer):
    """Muon's step for weights of two or more dimensions, each seen as a matrix [out, all else].

    For matrices it is torch.optim.Muon, which takes no others. It heeds `found_inf` on the device as fused steps do.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, nesterov: bool, iterations: int, adjust_lr: str):
        super().__init__(groups, {"fused": True, "momentum": momentum})
        self.nesterov, self.ns_steps, self.adjust_lr_fn = nesterov, iterations, adjust_lr
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """The closure's loss."""
        loss = computed(closure)
        flag = getattr(self, "found_inf", None)
        off = None if flag is None else flag.bool()
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                self._move(p, group, off)
        return loss

    def _move(self, p: torch.Tensor, group: dict[str, Any], off: torch.Tensor | None) -> None:
        """Move one weight and its momentum, but for a step that is called off, without asking the device."""
        assert p.grad is not None
        buffer, keep = self.state[p]["momentum_buffer"], group["momentum"]
        mean = buffer.lerp(p.grad, 1 - keep)
        ahead = p.grad.lerp(mean, keep) if self.nesterov else mean
        matrix = ahead.flatten(1)
        update = orthogonalized(matrix, self.ns_steps).view(p.shape)
        scale = adjustment(self.adjust_lr_fn, *matrix.shape)
        moved = (p * (1 - group["lr"] * group["weight_decay"])).add_(update, alpha=-group["lr"] * scale)
        buffer.copy_(mean if off is None else torch.where(off, buffer, mean))
        p.copy_(moved if off is None else torch.where(off, p, moved))

    def __getstate__(self) -> dict[str, Any]:
        own = {"nesterov": self.nesterov, "iterations": self.ns_steps, "adjust_lr": self.adjust_lr_fn}
        return super().__getstate__() | own


def orthogonalized(matrix: torch.Tensor, iterations: int) -> torch.Tensor:
    """U V^T, nearly, of a matrix U S V^T: singular values in about 0.7 .. 1.2. bfloat16 [rows, columns].

    The Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X (Jordan et al. 2024), on the side where X X^T is
    the smaller.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(torch.bfloat16, copy=True)
    x /= x.norm().clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).contiguous()


def adjustment(kind: str, rows: int, columns: int) -> float:
    """What multiplies the learning rate of a matrix of this shape; see Muon.adjust_lr."""
    return 0.2 * math.sqrt(max(rows, columns)) if kind == "match_rms_adamw" else math.sqrt(max(1, rows / columns))


def _hidden(model: nn.Module) -> set[int]:
    """ids of the weights of linear and convolution layers but the first and the last."""
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
