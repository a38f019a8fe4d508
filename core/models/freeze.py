"""Layers that stand still, for ever or for the first epochs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from pydantic import Field
from torch import nn

from core.common.text import did_you_mean
from core.declare.part import Part
from core.models.transfer import head_of


class Freeze(Part):
    """The first layers stand still (Yosinski et al. 2014); with `unfreeze_epoch`, the head is trained first and then
    everything (Kumar et al. 2022, section 3.4).

    What stands still is a fixed function: its weights have no gradient, weight decay or momentum; its norms use their
    running statistics and leave them as they are; its dropout is off. Optimizers begin with such weights when they are
    let go, as with new ones.
    """

    up_to: str | None = Field(
        None, description="last module that stands still, by name, with *, e.g. layer3; none: all before the head"
    )
    unfreeze_epoch: int | None = Field(None, ge=1, description="epochs after which everything moves; none: never")

    def of(self, network: nn.Module) -> Frozen:
        """What it comes to for this network. Raises ValueError for a name that it lacks, and where all would stand."""
        modules = dict(network.named_modules())
        names = list(modules)
        last = self._last(modules)
        parameters = [
            ".".join(filter(None, (name, own)))
            for name in names[: last + 1]
            for own, _ in modules[name].named_parameters(recurse=False)
        ]
        if len(parameters) == len(list(network.parameters())):
            raise ValueError(f"freeze.up_to: with {self.up_to}, nothing of the model would be left to train")
        whole = (name for name in names[: last + 1] if not any(_within(other, name) for other in names[last + 1 :]))
        return Frozen(tuple(parameters), tuple(whole), self.unfreeze_epoch)

    def _last(self, modules: dict[str, nn.Module]) -> int:
        """Position of the last module that stands still, in order of definition."""
        names = list(modules)
        if self.up_to is None:
            head = names.index(head_of(modules[""]))
            # dropout right before the head is the head's
            return max(i for i in range(head) if i == 0 or list(modules[names[i]].parameters(recurse=False)))
        found = [name for name in names if name and fnmatchcase(name, self.up_to)]
        if not found:
            known = [name for name in names if name]
            hint = did_you_mean(self.up_to, known) or f"; there are {', '.join(known[:8])}" + ", ..." * (len(known) > 8)
            raise ValueError(f"freeze.up_to: no module is named {self.up_to}{hint}")
        return max(i for i, name in enumerate(names) if any(name == f or _within(name, f) for f in found))


@dataclass(frozen=True)
class Frozen:
    """Names, within the network, of the parameters and modules that are frozen in the first `unfreeze_epoch` epochs."""

    parameters: tuple[str, ...]
    modules: tuple[str, ...]
    unfreeze_epoch: int | None = None

    def stands(self, epoch: int) -> bool:
        """Whether it does in this epoch, from 0: a function of the declaration and the epoch alone."""
        return self.unfreeze_epoch is None or epoch < self.unfreeze_epoch

    def hold(self, network: nn.Module, epoch: int) -> list[nn.Parameter]:
        """Set what needs a gradient, and which modules are in evaluation mode, for this epoch; what stands still.

        Among several processes gradients are asked for all the same: DistributedDataParallel expects them of every
        parameter that it has once seen. To be called whenever the network has been put into training mode.
        """
        stands, alone = self.stands(epoch), _alone()
        standing = [network.get_parameter(name) for name in self.parameters]
        for parameter in standing:
            parameter.requires_grad_(not (stands and alone))
            parameter.grad = None
        for name in self.modules:
            network.get_submodule(name).training = network.training and not stands
        return standing if stands else []

    @contextmanager
    def held(self, network: nn.Module, epoch: int) -> Iterator[None]:
        """Within, what stands still does so at every forward pass, whatever mode and statistics others set."""
        kept = {
            name: tensor.clone() for name, tensor in network.named_buffers() if name.rpartition(".")[0] in self.modules
        }

        def put_back(module: nn.Module, inputs: Any) -> None:
            for name in self.modules:
                module.get_submodule(name).training = False
            for name, tensor in kept.items():
                module.get_buffer(name).copy_(tensor)

        handle = network.register_forward_pre_hook(put_back) if self.stands(epoch) else None
        try:
            yield
        finally:
            if handle:
                handle.remove()


def _alone() -> bool:
    return not torch.distributed.is_initialized()


def _within(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.") or (not outer and bool(name))
