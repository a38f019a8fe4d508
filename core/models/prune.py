"""Prune: weights or channels that are removed from the network, before or during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils.prune import L1Unstructured

from core.declare.part import Part
from core.models.inspection import matching, within

Scope = Literal["global", "layer"]


class Prune(Part):
    """Remove weights or channels of small magnitude, and train what is left (Han et al. 2015, section 3).

    It is meant to be used with `model.weights` of a trained run, which is then fine-tuned.

    unstructured: single weights of convolutions and linear layers become zero, chosen by `torch.nn.utils.prune`, and
    stay zero in the network and in averages of its weights. At the beginning of epoch t, with t counted from 0, the
    share of zeros is amount * (1 - (1 - (t - start) / (end - start))^3) (Zhu and Gupta 2017, equation 1). Only epochs
    with the whole amount can be the best epoch, and early stopping counts only these.

    structured: whole channels are removed before the first epoch, by torch-pruning (Fang et al. 2023), so that the
    network has fewer parameters and FLOPs. The outputs of the last layer are kept.
    """

    amount: float = Field(
        0.5, gt=0, lt=1, description="share of the weights to remove; with structured, share of the channels"
    )
    how: Literal["unstructured", "structured"] = Field(
        "unstructured", description="unstructured: set single weights to zero; structured: remove whole channels"
    )
    scope: Scope = Field(
        "global", description="compare magnitudes over all layers (global), or remove the same share of each layer"
    )
    start_epoch: int = Field(0, ge=0, description="number of epochs after which pruning starts")
    end_epoch: int | None = Field(
        None, ge=1, description="number of epochs after which the whole amount is removed; none: at once"
    )
    skip: tuple[str, ...] = Field(
        (), description="names of modules that are not pruned; * is a wildcard, e.g. conv1,layer4.*"
    )

    def check(self) -> None:
        if self.end_epoch is not None and self.end_epoch <= self.start_epoch:
            raise ValueError(f"end_epoch {self.end_epoch} must be larger than start_epoch {self.start_epoch}")
        if self.how == "structured" and (self.start_epoch or self.end_epoch):
            raise ValueError(
                "structured prunes before the first epoch; leave out start_epoch and end_epoch, and set model.weights "
                "to the run to start from. To prune in several steps, start each run from the one before"
            )

    @property
    def complete_epoch(self) -> int:
        """Number of epochs after which the whole amount is removed."""
        return self.end_epoch or self.start_epoch

    def sparsity(self, epoch: int) -> float:
        """Share of the weights that are zero in this epoch, counted from 0 (unstructured)."""
        if epoch >= self.complete_epoch:
            return self.amount
        progress = max(0, epoch - self.start_epoch) / (self.complete_epoch - self.start_epoch)
        return float(self.amount * (1 - (1 - progress) ** 3)) if epoch >= self.start_epoch else 0.0

    def weights_of(self, network: nn.Module) -> tuple[str, ...]:
        """Names of the weights of convolutions and linear layers that are pruned. Raises ValueError if there are none,
        and for a pattern in `skip` that matches no module."""
        skipped = within(matching(network, self.skip, "prune.skip").values())
        own = dict(network.named_parameters())
        layers = ((f"{name}.weight", module) for name, module in network.named_modules() if module not in skipped)
        found = tuple(name for name, module in layers if isinstance(module, PRUNED) and name in own)
        if not found:
            raise ValueError("prune.skip: no convolution or linear layer is left to prune; skip fewer modules")
        return found


PRUNED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def masks(
    weights: Mapping[str, torch.Tensor], sparsity: float, scope: Scope, before: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Masks, bool and of the shapes of the weights, that are False for a share `sparsity` of the weights, rounded down:
    those of the smallest magnitude, over all weights or within each. before: earlier masks, which stay False where they
    are; the same sparsity again gives the same masks."""
    found: dict[str, torch.Tensor] = {}
    for names in [list(weights)] if scope == "global" else [[name] for name in weights]:
        flat = torch.cat([weights[name].detach().flatten() for name in names])
        kept = torch.cat([_mask(before, name, weights[name]).flatten() for name in names])
        missing = int(sparsity * len(flat)) - int((~kept).sum())
        if missing > 0:
            candidates = flat[kept]
            mask = L1Unstructured(missing).compute_mask(candidates, torch.ones_like(candidates))
            kept[kept.clone()] = mask.bool()
        parts = kept.split([weights[name].numel() for name in names])
        found |= {name: part.view(weights[name].shape) for name, part in zip(names, parts, strict=True)}
    return found


def _mask(before: Mapping[str, torch.Tensor], name: str, weight: torch.Tensor) -> torch.Tensor:
    return before[name] if name in before else torch.ones_like(weight, dtype=torch.bool)
