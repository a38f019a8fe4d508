"""Sharpness-aware minimization: a second gradient, taken uphill, moves the weights."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn

from core.optimizers.base import Descent, Optimizer
from core.optimizers.composite import Closure, Composite
from core.optimizers.torch_optimizers import SGD


class SAM(Optimizer):
    """Sharpness-aware minimization (Foret et al. 2021, algorithm 1 with p = 2) over any other optimizer.

    The gradient g at the weights w gives w + rho * g / |g|; the gradient there is what `base` steps with, from w. A
    step takes twice the time of its base. Both gradients see the same batch and the same dropout; the second leaves
    running statistics as the first made them, for it is w that is evaluated. Reported are the loss and norm at w.
    """

    base: Descent = Field(SGD(), description="the optimizer that steps with the second gradient")
    rho: float = Field(0.05, gt=0, description="distance in weights at which the second gradient is taken")

    def build(self, trained: nn.Module, scaled: bool = False) -> torch.optim.Optimizer:
        if scaled:
            raise ValueError(
                "optimizer: SAM takes two gradients a step, and fp16's gradient scaler allows but one; "
                "use precision bf16 or fp32"
            )
        return TwoGradients(self.base.build(trained), self.rho, trained)


class TwoGradients(Composite):
    """SAM's step around another optimizer. trained: the modules whose buffers the second pass must not change."""

    aside = "; the second gradient of SAM is not among what is replayed: lower optimizer.rho"

    def __init__(self, base: torch.optim.Optimizer, rho: float, trained: nn.Module):
        self.rho, self.trained = rho, trained
        super().__init__([base])

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """The closure's loss at the weights. Whatever the second gradient is, the weights are put back to the bit."""
        if closure is None:
            raise ValueError("SAM's step needs a closure that computes loss and gradient")
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
            # copied back, not subtracted: exact, also where the gradient was not finite
            for tensor, before in zip((*weights, *buffers), kept, strict=True):
                tensor.copy_(before)
        self.inner[0].step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"rho": self.rho, "trained": self.trained}


def _noise(device: torch.device) -> list[torch.Tensor]:
    """Where torch's generators (dropout) stand."""
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
