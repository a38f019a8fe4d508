"""SGD, Adam, AdamW and RMSprop of torch, in their fused implementations if torch has one."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from core.optimizers.base import Descent


class SGD(Descent):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013, section 2; Nesterov: equations 3 and 4)."""

    momentum: float = Field(0.9, ge=0, lt=1, description="momentum factor")
    nesterov: bool = Field(False, description="use Nesterov momentum")

    def check(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov requires a momentum greater than 0")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)
        # torch leaves these uninitialized if the first fused step is skipped, as the fp16 gradient scaler may do
        for parameter in (p for group in groups for p in group["params"] if self.momentum):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


class Adam(Descent):
    """Adam (Kingma and Ba 2015, algorithm 1). Weight decay is an L2 penalty, added to the gradient."""

    lr: float = Field(1e-3, gt=0, description="learning rate, before the multiplier of the schedule")
    betas: tuple[float, float] = Field(
        (0.9, 0.999), description="decay of the running means of the gradient and of its square, each in [0, 1)"
    )
    eps: float = Field(1e-8, gt=0, description="term added to the denominator for numerical stability")

    def check(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must both be in [0, 1), not {self.betas}")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class AdamW(Adam):
    """AdamW: Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2)."""

    weight_decay: float = Field(
        0.01, ge=0, description="weight decay coefficient; not applied to biases and normalization layers"
    )

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class RMSprop(Descent):
    """RMSprop (Tieleman and Hinton 2012, lecture 6.5). Weight decay is an L2 penalty, added to the gradient.

    torch has no fused implementation: on a GPU, each step synchronizes with the device, to skip a non-finite step.
    """

    lr: float = Field(1e-2, gt=0, description="learning rate, before the multiplier of the schedule")
    alpha: float = Field(0.99, ge=0, lt=1, description="smoothing constant: decay of the running mean of squares")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum factor")
    centered: bool = Field(
        False, description="normalize the gradient by an estimate of its variance (Graves 2013, section 2.3)"
    )
    eps: float = Field(1e-8, gt=0, description="term added to the denominator for numerical stability")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            groups, lr=self.lr, alpha=self.alpha, momentum=self.momentum, centered=self.centered, eps=self.eps
        )
