"""Optimizers composed of other optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Closure = Callable[[], torch.Tensor]


def evaluate(closure: Closure | None) -> torch.Tensor | None:
    """Call the closure with gradients enabled, which a step disables; returns its loss, or None without a closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class Composite(torch.optim.Optimizer):
    """Several optimizers of disjoint parameters combined into one: the closure is called once, then each takes a step.

    Parameter groups and state are those of the inner optimizers (the same dicts). `found_inf` (see
    core/training/step.py) is passed on to all of them.
    """

    def __init__(self, inner: Sequence[torch.optim.Optimizer]):
        self.inner = list(inner)
        super().__init__([group for part in self.inner for group in part.param_groups], {})

    @property
    def found_inf(self) -> torch.Tensor | None:
        """Scalar float32 tensor on the device, 1 if the step must be skipped; None if it is not used."""
        return getattr(self.inner[0], "found_inf", None)

    @found_inf.setter
    def found_inf(self, flag: torch.Tensor) -> None:
        for part in self.inner:
            part.found_inf = flag  # type: ignore[attr-defined]

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """Take a step; returns the loss of the closure. If the closure raises, no weight has changed."""
        loss = evaluate(closure)
        for part in self.inner:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """{"inner": [state dict of each inner optimizer]}"""
        return {"inner": [part.state_dict() for part in self.inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the states of the inner optimizers."""
        for part, state in zip(self.inner, state_dict["inner"], strict=True):
            part.load_state_dict(state)
        # load_state_dict replaces the group dicts of the inner optimizers
        self.param_groups = [group for part in self.inner for group in part.param_groups]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"inner": self.inner}
