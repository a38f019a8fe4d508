"""Dropout in a forward pass of several networks at once: each network has the masks that it would draw alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

DROPOUT = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)  # those that multiply their input by noise
Draw = Callable[[int, torch.Tensor], torch.Tensor]


class OwnDropout(TorchFunctionMode):
    """Context manager of a forward pass under `torch.vmap`: dropout draws the mask of each network from a generator of
    its own, which is seeded as `reseed` does before a step of that network alone.

    seeds: of the step, one for each network.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        super().__init__()
        self.generator = torch.default_generator
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self.generator = torch.cuda.default_generators[index]
        self.states: list[int | torch.Tensor] = list(seeds)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = self._dropout if func in DROPOUT else None
        return function(func, *args, **(kwargs or {})) if function else func(*args, **(kwargs or {}))

    def _dropout(
        self, function: Any, input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> torch.Tensor:
        if not training or not p:
            return input

        def draw(place: int, one: torch.Tensor) -> torch.Tensor:
            before = self.states[place]
            if isinstance(before, int):
                self.generator.manual_seed(before)
            else:
                self.generator.set_state(before)
            noise: torch.Tensor = function(torch.ones_like(one), p, True)
            self.states[place] = self.generator.get_state()
            return noise

        noise: torch.Tensor = _Noise.apply(input.detach(), draw)
        return input * noise


class _Noise(torch.autograd.Function):
    """The noise of each network, which `vmap` hands out as one tensor."""

    @staticmethod
    def forward(input: torch.Tensor, draw: Draw) -> torch.Tensor:
        raise RuntimeError("dropout of a tensor that is the same for all networks")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, input: torch.Tensor, draw: Draw) -> tuple[torch.Tensor, int]:
        return torch.stack([draw(place, one) for place, one in enumerate(input.unbind(in_dims[0]))]), 0
