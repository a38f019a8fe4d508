"""Gradient descent with momentum, and with rates adapted to each weight: torch's, fused where torch has it."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from core.optimizers.base import Descent


class SGD(Descent):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013, section 2; nesterov: equations 3 and 4)."""

    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last update kept")
    nesterov: bool = Field(False, description="look ahead along the momentum")

    def check(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)
        # torch leaves these uninitialized when the very first fused step is called off, as fp16's scaler may do
        for parameter in (p for group in groups for p in group["params"] if self.momentum):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


class Adam(Descent):
    """Adam (Kingma and Ba 2015, algorithm 1); its weight decay is L2, added to the gradient."""

    lr: float = Field(1e-3, gt=0, description="learning rate before the schedule's multiplier")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the running mean and square, each in [0, 1)")
    eps: float = Field(1e-8, gt=0, description="added to the root")

    def check(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), not {self.betas}")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019, algorithm 2)."""

    weight_decay: float = Field(0.01, ge=0, description="decay of weights; norms and biases are spared")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class RMSprop(Descent):
    """RMSprop (Tieleman and Hinton 2012, lecture 6.5); its weight decay is L2, added to the gradient.

    torch has no fused one: on a GPU the host waits for the device at each step, to keep back one that is not finite.
    """

    lr: float = Field(1e-2, gt=0, description="learning rate before the schedule's multiplier")
    alpha: float = Field(0.99, ge=0, lt=1, description="decay of the running square")
    momentum: float = Field(0.0, ge=0, lt=1, description="share of the last update kept")
    centered: bool = Field(False, description="divide by the variance instead of the square (Graves 2013, section 2.3)")
    eps: float = Field(1e-8, gt=0, description="added to the root")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            groups, lr=self.lr, alpha=self.alpha, momentum=self.momentum, centered=self.centered, eps=self.eps
        )
