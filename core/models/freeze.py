"""Freeze: layers that are not trained, for the whole run, in its first epochs, or after them, or until their stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import nn

from core.common.text import did_you_mean
from core.declare.part import Part
from core.models.inspection import matching
from core.models.transfer import head_of

NEVER = sys.maxsize  # the epoch in which layers begin that no stage names


def _stage(text: str) -> str:
    epoch, _, pattern = (part.strip() for part in text.partition(":"))
    if not (epoch.isascii() and epoch.isdecimal() and pattern):
        raise ValueError("should be EPOCH:MODULE, such as 3:layer4 or 6:*")
    return f"{epoch}:{pattern}"


Stage = Annotated[str, AfterValidator(_stage)]


class Freeze(Part):
    """Freeze the first layers of the network (Yosinski et al. 2014).

    With `unfreeze_epoch`, the head is trained first and then the whole network (Kumar et al. 2022, section 3.4: linear
    probing, then fine-tuning). Frozen layers are a fixed function: their weights have no gradient, weight decay or
    momentum; their normalization layers use running statistics, which are not updated; their dropout is off. When
    layers are unfrozen, the optimizer starts with an empty state for them. With `from_epoch`, the layers are trained
    first and frozen later (Brock et al. 2017, FreezeOut, section 2, which also lowers their learning rate until then).
    With `stages`, layers are unfrozen group by group (Howard and Ruder 2018, ULMFiT, section 3.3); their learning rates
    and weight decay are those that the optimizer declares for them, all the time.
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
    stages: tuple[Stage, ...] = Field(
        (),
        description="EPOCH:MODULE, ...: modules that are trained from an epoch on, counted from 0, e.g. "
        "0:fc,3:layer4,6:*; * is a wildcard; what no stage names stays frozen; none: the fields above",
    )

    def check(self) -> None:
        if self.stages:
            self._check_stages()
        if self.unfreeze_epoch is not None and self.unfreeze_epoch <= self.from_epoch:
            raise ValueError(
                f"unfreeze_epoch {self.unfreeze_epoch} must be greater than from_epoch {self.from_epoch}, or no epoch "
                "has frozen layers"
            )

    def of(self, network: nn.Module) -> Frozen:
        """The parameters and modules of this network to freeze, without parameters that are never trained.

        Raises ValueError if `up_to` or a stage matches no module, if no parameter would be left to train, or if a stage
        trains nothing that is not trained already.
        """
        if self.stages:
            return self._staged(network)
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
        return Frozen((Layers(tuple(parameters), tuple(whole), self.unfreeze_epoch, self.from_epoch),))

    @property
    def plan(self) -> list[tuple[int, str]]:
        """(epoch, pattern) of each stage."""
        divided = (stage.partition(":") for stage in self.stages)
        return [(int(epoch), pattern) for epoch, _, pattern in divided]

    def begun(self, epochs: int) -> tuple[str, ...]:
        """The stages that begin within so many epochs."""
        return tuple(stage for stage, (epoch, _) in zip(self.stages, self.plan, strict=True) if epoch < epochs)

    def _check_stages(self) -> None:
        if self.up_to is not None or self.from_epoch or self.unfreeze_epoch is not None:
            raise ValueError("stages: leave out up_to, from_epoch and unfreeze_epoch; the stages say all of it")
        epochs = [epoch for epoch, _ in self.plan]
        if epochs[0] != 0:
            raise ValueError(f"stages: nothing would be trained before epoch {epochs[0]}; begin with 0:MODULE")
        if epochs != sorted(epochs):
            raise ValueError("stages: put them in the order of their epochs")

    def refuse_unknown(self, network: nn.Module) -> None:
        """Raise ValueError for a stage that matches no module of the network."""
        for _, pattern in self.plan:
            matching(network, [pattern], "freeze.stages")

    def _staged(self, network: nn.Module) -> Frozen:
        self.refuse_unknown(network)
        names = [name for name, _ in network.named_modules()]
        begins: dict[str, int] = dict.fromkeys(names, NEVER)
        for epoch, pattern in reversed(self.plan):  # the earliest stage that names a module counts
            named = [name for name in names if fnmatchcase(name, pattern)]
            begins |= {name: epoch for name in names if any(name == n or _within(name, n) for n in named)}
        # a module is in training mode as soon as one within it is trained
        modes = {name: min(begins[n] for n in names if n == name or _within(n, name)) for name in names}
        groups = []
        for epoch in sorted({*(epoch for epoch, _ in self.plan), NEVER}):
            parameters = [
                ".".join(filter(None, (name, parameter)))
                for name in names
                if begins[name] == epoch
                for parameter, value in network.get_submodule(name).named_parameters(recurse=False)
                if value.requires_grad
            ]
            if not parameters and epoch != NEVER:
                raise ValueError(f"freeze.stages: the stage of epoch {epoch} trains nothing that is not trained before")
            modules = tuple(name for name in names if modes[name] == epoch)
            groups.append(Layers(tuple(parameters), modules, None if epoch == NEVER else epoch))
        return Frozen(tuple(layers for layers in groups if layers.unfreeze_epoch != 0))

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
class Layers:
    """Names of the network's parameters and modules that are frozen, from an epoch to another or the end."""

    parameters: tuple[str, ...]
    modules: tuple[str, ...]
    unfreeze_epoch: int | None = None
    from_epoch: int = 0

    def stands(self, epoch: int) -> bool:
        """Whether the layers are frozen in this epoch, counted from 0."""
        return self.from_epoch <= epoch and (self.unfreeze_epoch is None or epoch < self.unfreeze_epoch)


@dataclass(frozen=True)
class Frozen:
    """Layers that are frozen together, group by group; no layer is in two groups."""

    groups: tuple[Layers, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all parameters that are frozen at some time."""
        return tuple(name for layers in self.groups for name in layers.parameters)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of all modules that are frozen at some time."""
        return tuple(name for layers in self.groups for name in layers.modules)

    def hold(self, network: nn.Module, epoch: int) -> list[nn.Parameter]:
        """Set requires_grad and evaluation mode of the layers for this epoch; returns the frozen parameters.

        It must be called each time after the network has been put into training mode. In distributed training, frozen
        parameters keep requires_grad, because DistributedDataParallel expects a gradient of every parameter with which
        it was constructed.
        """
        single, held = _single_process(), []
        for layers in self.groups:
            frozen = layers.stands(epoch)
            parameters = [network.get_parameter(name) for name in layers.parameters]
            for parameter in parameters:
                parameter.requires_grad_(not (frozen and single))
                parameter.grad = None
            for name in layers.modules:
                network.get_submodule(name).training = network.training and not frozen
            held += parameters if frozen else []
        return held

    @contextmanager
    def held(self, network: nn.Module, epoch: int) -> Iterator[None]:
        """Context manager that restores evaluation mode and buffers of frozen modules before every forward pass, after
        code (such as update_bn) that changes the mode and statistics of the whole network."""
        modules = {name for layers in self.groups if layers.stands(epoch) for name in layers.modules}
        kept = {name: tensor.clone() for name, tensor in network.named_buffers() if name.rpartition(".")[0] in modules}

        def restore(module: nn.Module, inputs: Any) -> None:
            for name in modules:
                module.get_submodule(name).training = False
            for name, tensor in kept.items():
                module.get_buffer(name).copy_(tensor)

        handle = network.register_forward_pre_hook(restore) if modules else None
        try:
            yield
        finally:
            if handle:
                handle.remove()


def _single_process() -> bool:
    return not torch.distributed.is_initialized()


def _within(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.") or (not outer and bool(name))
