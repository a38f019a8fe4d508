"""Unstructured pruning during training: which weights are zero in an epoch, and that they stay zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from core.metrics.names import SPARSITY
from core.models.prune import Prune, masks
from core.training.state import State

Held = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""(parameter, mask of the weights that are kept), for each pruned parameter."""


@dataclass(frozen=True)
class Pruning:
    """The weights of the network that are pruned, by name; none if nothing is declared."""

    declared: Prune
    names: tuple[str, ...]

    @property
    def complete_epoch(self) -> int:
        """Number of epochs after which the network has its final sparsity."""
        return self.declared.complete_epoch if self.names else 0

    def hold(self, state: State, epoch: int) -> Held:
        """Set the weights to zero that are pruned by the beginning of this epoch, in the network and in the averages of
        its weights.

        It may be called again in the middle of the epoch, after a resume, and then changes nothing.
        """
        weights = {name: state.model.get_parameter(name) for name in self.names}
        state.masks = masks(weights, self.declared.sparsity(epoch), self.declared.scope, state.masks) if weights else {}
        averages = [average.module for average in (state.ema, state.swa) if average is not None]
        with torch.no_grad():
            for network in (state.model, *averages):
                for name, mask in state.masks.items():
                    network.get_parameter(name).mul_(mask)
        return [(weights[name], mask) for name, mask in state.masks.items()]

    def metrics(self, epoch: int) -> dict[str, float]:
        """The metrics of an epoch that say how much is pruned."""
        return {SPARSITY: self.declared.sparsity(epoch)} if self.names else {}


UNPRUNED = Pruning(Prune(), ())


def pruned(declared: Prune | None, network: nn.Module) -> Pruning:
    """The weights of a network that become zero during training."""
    if declared is None or declared.how == "structured":
        return UNPRUNED
    return Pruning(declared, declared.weights_of(network))


def mask_gradients(held: Held) -> None:
    """Set the gradients of pruned weights to zero."""
    for parameter, mask in held:
        if parameter.grad is not None:
            parameter.grad.mul_(mask)


@torch.no_grad()
def mask_weights(held: Held) -> None:
    """Set pruned weights to zero again: momentum and orthogonalization of an optimizer move them without a gradient."""
    for parameter, mask in held:
        parameter.mul_(mask)
