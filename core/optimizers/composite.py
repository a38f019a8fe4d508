"""Optimizers made of others, whole through state_dict and load_state_dict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Closure = Callable[[], torch.Tensor]


def computed(closure: Closure | None) -> torch.Tensor | None:
    """The closure's loss, its gradients computed although a step runs without; None for none."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class Composite(torch.optim.Optimizer):
    """Several optimizers of different parameters as one: a closure's gradient, then a step of each.

    Its groups are theirs, the same dicts; so is its state; and what is set as `found_inf` (see step.py) reaches all.
    """

    def __init__(self, inner: Sequence[torch.optim.Optimizer]):
        self.inner = list(inner)
        super().__init__([group for part in self.inner for group in part.param_groups], {})

    @property
    def found_inf(self) -> torch.Tensor | None:
        """float32 scalar, 1 where the step is to be called off on the device; None where it is not asked."""
        return getattr(self.inner[0], "found_inf", None)

    @found_inf.setter
    def found_inf(self, flag: torch.Tensor) -> None:
        for part in self.inner:
            part.found_inf = flag  # type: ignore[attr-defined]

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """The closure's loss. What the closure raises comes before any weight is touched."""
        loss = computed(closure)
        for part in self.inner:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """{"inner": one state of each}"""
        return {"inner": [part.state_dict() for part in self.inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Become what `state_dict` was taken of."""
        for part, state in zip(self.inner, state_dict["inner"], strict=True):
            part.load_state_dict(state)
        # loading gives the parts new groups
        self.param_groups = [group for part in self.inner for group in part.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"inner": self.inner}
