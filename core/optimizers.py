"""Optimizers: a declaration builds a torch.optim.Optimizer over what is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from pydantic import Field
from torch import nn

from core.part import Part


class Optimizer(Part, ABC):
    """Base of optimizers. Weight decay spares norms and biases (every parameter of fewer than two dimensions)."""

    lr: float = Field(0.1, gt=0, description="learning rate before the schedule's multiplier")
    weight_decay: float = Field(0.0, ge=0, description="decay of weights; norms and biases are spared")

    def build(self, trained: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of every parameter of `trained` that requires a gradient."""
        parameters = [p for p in trained.parameters() if p.requires_grad]
        decayed = [p for p in parameters if p.ndim >= 2 or not self.weight_decay]
        spared = [p for p in parameters if p.ndim < 2 and self.weight_decay]
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": spared, "weight_decay": 0.0}]
        optimizer = self.over([group for group in groups if group["params"]])
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    @abstractmethod
    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's optimizer over these parameter groups. Fused where torch offers it: a fused step takes
        `found_inf` and so can be called off on the device (see loop.py)."""


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013)."""

    momentum: float = Field(0.9, ge=0, lt=1, description="share of the last update kept")
    nesterov: bool = Field(False, description="look ahead along the momentum")

    def check(self) -> None:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)
        # torch leaves these uninitialised when the very first fused step is called off, as fp16's scaler may do
        for parameter in (p for group in groups for p in group["params"] if self.momentum):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015); its weight decay is L2, added to the gradient."""

    lr: float = Field(1e-3, gt=0, description="learning rate before the schedule's multiplier")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the running mean and square")
    eps: float = Field(1e-8, gt=0, description="added to the root")

    def check(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), not {self.betas}")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019)."""

    weight_decay: float = Field(0.01, ge=0, description="decay of weights; norms and biases are spared")

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)
