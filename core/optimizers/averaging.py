"""Weight averaging: exponential moving average (EMA) and stochastic weight averaging (SWA)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from pydantic import Field
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from core.common.half import OWN, in_full
from core.declare.part import Part


class Ema(Part):
    """Exponential moving average of the weights (Polyak and Juditsky 1992), evaluated and saved instead of them.

    With warm-up, the decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage:
    the average spans about the last tenth of a training that is shorter than 1 / (1 - decay) steps, instead of being
    dominated by the first weights.
    """

    decay: float = Field(0.999, gt=0, lt=1, description="decay of the average at each optimizer step")
    warmup: bool = Field(True, description="use a smaller decay in the first steps, so that a short training works")

    def at(self, step: int) -> float:
        """Decay at an optimizer step, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def note(self, steps: int) -> str | None:
        """What a user should know if the decay does not fit a training of this many steps; otherwise None."""
        span = round(1 / (1 - self.at(steps)))
        if self.at(steps) < self.decay:
            return f"ema: {steps:,} steps are too few for decay {self.decay:g}; it averages about the last {span:,}"
        if span > steps / 3:
            return (
                f"warning: ema.decay {self.decay:g} averages over about {span:,} steps, but the training has "
                f"{steps:,}: the first weights count too much; use a smaller ema.decay, or ema.warmup"
            )
        return None


class Swa(Part):
    """Stochastic weight averaging (Izmailov et al. 2018, algorithm 1, with cycles of one epoch).

    From `start` on, the average of the weights at the end of each epoch is evaluated and saved; the statistics of
    BatchNorm are recomputed for it with a pass over the training batches. Before `start`, the weights themselves are
    evaluated. It is meant to be used with a constant or cyclic learning rate.
    """

    start: float = Field(0.75, ge=0, lt=1, description="fraction of the declared epochs after which averaging starts")

    def first_epoch(self, epochs: int) -> int:
        """The epoch, counted from 0, at whose end averaging starts."""
        return math.floor(self.start * epochs)


class Average(AveragedModel):
    """An average of the weights of a model, equal unless `multi_avg_fn` is set; in fp32, also of weights in half
    precision (core/common/half.py), where what a step adds to an average would be rounded away."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        if hasattr(self.module, OWN):
            in_full(self.module)

    def update_parameters(self, model: nn.Module) -> None:
        """Average in the weights of the model."""
        super().update_parameters(_InFull(model) if hasattr(model, OWN) else model)


class _InFull(nn.Module):
    """The weights of a model in fp32, copied as they are asked for."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.of = [model]  # in a list, so that it is no module of this one

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return (parameter.float() for parameter in self.of[0].parameters())  # type: ignore[misc]

    def buffers(self, recurse: bool = True) -> Iterator[torch.Tensor]:
        return self.of[0].buffers()


class MovingAverage(Average):
    """An exponential moving average of the weights of a model; buffers are copied."""

    def __init__(self, model: nn.Module, ema: Ema):
        super().__init__(model)
        self.ema = ema

    def update_parameters(self, model: nn.Module) -> None:
        """Average in the weights of the model after an optimizer step."""
        self.multi_avg_fn = get_ema_multi_avg_fn(self.ema.at(int(self.n_averaged)))  # the count is on the host
        super().update_parameters(model)

    def over(self, network: nn.Module) -> MovingAverage:
        """The same average of a part of its network, `network`; both share its weights and count."""
        made = MovingAverage(network, self.ema)
        made.module, made.n_averaged = network, self.n_averaged
        return made


def equal_average(model: nn.Module) -> AveragedModel:
    """An equally weighted average of the weights of a model; the first update starts it."""
    return Average(model)
