"""Freeze: layers that are not trained, for the whole run, in its first epochs, or after them."""

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
    """Freeze the first layers of the network (Yosinski et al. 2014).

    With `unfreeze_epoch`, the head is trained first and then the whole network (Kumar et al. 2022, section 3.4: linear
    probing, then fine-tuning). Frozen layers are a fixed function: their weights have no gradient, weight decay or
    momentum; their normalization layers use running statistics, which are not updated; their dropout is off. When
    layers are unfrozen, the optimizer starts with an empty state for them. With `from_epoch`, the layers are trained
    first and frozen later (Brock et al. 2017, FreezeOut, section 2, which also lowers their learning rate until then).
    """

    up_to: str | None = Field(
        None,
        description="freeze this module and all before it, e.g. layer3; * is a wildcard; none: all layers before the "
        "head",
    )
    from_epoch: int = Field(0, ge=0, description="number of epochs in which the layers are trained before they freeze")
    unfreeze_epoch: int | None = Field(
        None, ge=1, description="number of epochs after which all layers are trained; none: layers stay frozen"
    )

    def check(self) -> None:
        if self.unfreeze_epoch is not None and self.unfreeze_epoch <= self.from_epoch:
            raise ValueError(
                f"unfreeze_epoch {self.unfreeze_epoch} must be greater than from_epoch {self.from_epoch}, or no epoch "
                "has frozen layers"
            )

    def of(self, network: nn.Module) -> Frozen:
        """The parameters and modules of this network to freeze, without parameters that are never trained.

        Raises ValueError if `up_to` matches no module, or if no parameter would be left to train.
        """
        modules = dict(network.named_modules())
        names = list(modules)
        last = self._last(modules)
        parameters = [
            ".".join(filter(None, (name, own)))
            for name in names[: last + 1]
            for own, parameter in modules[name].named_parameters(recurse=False)
            if parameter.requires_grad
        ]
        if len(parameters) == sum(parameter.requires_grad for parameter in network.parameters()):
            raise ValueError(f"freeze.up_to: {self.up_to} freezes all parameters of the model; name an earlier module")
        whole = (name for name in names[: last + 1] if not any(_within(other, name) for other in names[last + 1 :]))
        return Frozen(tuple(parameters), tuple(whole), self.unfreeze_epoch, self.from_epoch)

    def _last(self, modules: dict[str, nn.Module]) -> int:
        """Index of the last frozen module, in order of definition."""
        names = list(modules)
        if self.up_to is None:
            head = names.index(head_of(modules[""]))
            # dropout directly before the head belongs to the head
            return max(i for i in range(head) if i == 0 or list(modules[names[i]].parameters(recurse=False)))
        found = [name for name in names if name and fnmatchcase(name, self.up_to)]
        if not found:
            known = [name for name in names if name]
            listed = f"; module names: {', '.join(known[:8])}" + ", ..." * (len(known) > 8)
            raise ValueError(
                f"freeze.up_to: no module of the model is named {self.up_to}{did_you_mean(self.up_to, known) or listed}"
            )
        return max(i for i, name in enumerate(names) if any(name == f or _within(name, f) for f in found))


@dataclass(frozen=True)
class Frozen:
    """Names of the network's parameters and modules that are frozen, from an epoch to another or the end."""

    parameters: tuple[str, ...]
    modules: tuple[str, ...]
    unfreeze_epoch: int | None = None
    from_epoch: int = 0

    def stands(self, epoch: int) -> bool:
        """Whether the layers are frozen in this epoch, counted from 0."""
        return self.from_epoch <= epoch and (self.unfreeze_epoch is None or epoch < self.unfreeze_epoch)

    def hold(self, network: nn.Module, epoch: int) -> list[nn.Parameter]:
        """Set requires_grad and evaluation mode of the layers for this epoch; returns the frozen parameters.

        It must be called each time after the network has been put into training mode. In distributed training, frozen
        parameters keep requires_grad, because DistributedDataParallel expects a gradient of every parameter with which
        it was constructed.
        """
        frozen, single = self.stands(epoch), _single_process()
        parameters = [network.get_parameter(name) for name in self.parameters]
        for parameter in parameters:
            parameter.requires_grad_(not (frozen and single))
            parameter.grad = None
        for name in self.modules:
            network.get_submodule(name).training = network.training and not frozen
        return parameters if frozen else []

    @contextmanager
    def held(self, network: nn.Module, epoch: int) -> Iterator[None]:
        """Context manager that restores evaluation mode and buffers of frozen modules before every forward pass, after
        code (such as update_bn) that changes the mode and statistics of the whole network."""
        kept = {
            name: tensor.clone() for name, tensor in network.named_buffers() if name.rpartition(".")[0] in self.modules
        }

        def restore(module: nn.Module, inputs: Any) -> None:
            for name in self.modules:
                module.get_submodule(name).training = False
            for name, tensor in kept.items():
                module.get_buffer(name).copy_(tensor)

        handle = network.register_forward_pre_hook(restore) if self.stands(epoch) else None
        try:
            yield
        finally:
            if handle:
                handle.remove()


def _single_process() -> bool:
    return not torch.distributed.is_initialized()


def _within(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.") or (not outer and bool(name))
