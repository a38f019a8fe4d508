"""Sharpness-aware minimization (SAM): the base optimizer steps with the gradient at perturbed weights."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn

from core.optimizers.base import Descent, Optimizer
from core.optimizers.composite import Closure, Composite
from core.optimizers.torch_optimizers import SGD


class SAM(Optimizer):
    """Sharpness-aware minimization (Foret et al. 2021, algorithm 1 with p = 2) on top of another optimizer.

    With the gradient g at the weights w, the optimizer `base` updates w with the gradient at w + rho * g / |g|. A step
    takes about twice the time of a step of `base`. Both gradients use the same batch and dropout masks; the second does
    not update running statistics, since w is evaluated. Loss and gradient norm are logged at w.
    """

    base: Descent = Field(SGD(), description="optimizer that takes the step with the second gradient")
    rho: float = Field(0.05, gt=0, description="neighborhood size: L2 norm of the perturbation of the weights")

    def build(self, trained: nn.Module, scaled: bool = False) -> torch.optim.Optimizer:
        if scaled:
            raise ValueError(
                "optimizer: SAM computes two gradients per step, which the gradient scaler of fp16 does not support; "
                "use precision bf16 or fp32"
            )
        return TwoGradients(self.base.build(trained), self.rho, trained)


class TwoGradients(Composite):
    """SAM's step on top of another optimizer.  trained: modules whose buffers the second pass must not change."""

    aside = "; the replay does not include the second gradient of SAM: lower optimizer.rho"

    def __init__(self, base: torch.optim.Optimizer, rho: float, trained: nn.Module):
        self.rho, self.trained = rho, trained
        super().__init__([base])

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """Take a step; returns the loss of the closure at the unperturbed weights, which are restored exactly.

        Raises ValueError without a closure.
        """
        if closure is None:
            raise ValueError("SAM.step requires a closure that computes the loss and its gradients")
        device = self.param_groups[0]["params"][0].device
        noise = _noise(device)
        with torch.enable_grad():
            loss = closure()
        weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in weights]
        buffers = list(self.trained.buffers())
        kept = [tensor.clone() for tensor in (*weights, *buffers)]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_add_(weights, torch._foreach_mul(gradients, self.rho / (norm + 1e-12)))
        _set_noise(device, noise)
        try:
            with torch.enable_grad():
                closure()
        finally:
            # copying is exact, even if the gradient was not finite; subtracting the perturbation is not
            for tensor, before in zip((*weights, *buffers), kept, strict=True):
                tensor.copy_(before)
        self.inner[0].step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"rho": self.rho, "trained": self.trained}


def _noise(device: torch.device) -> list[torch.Tensor]:
    """States of torch's random number generators, from which dropout takes its masks."""
    state = [torch.get_rng_state()]
    if device.type == "cuda":
        state.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        state.append(torch.mps.get_rng_state())
    return state


def _set_noise(device: torch.device, state: list[torch.Tensor]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state[1])
