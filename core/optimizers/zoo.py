"""OptimizerByName: the optimizers of torch and timm that have no class of their own here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
from pydantic import Field

from core.common.extras import library
from core.common.text import did_you_mean, suggestion
from core.optimizers.base import Descent

FIELDS = ("lr", "weight_decay")  # declared apart from the arguments
NOT_TAKEN = ("params", "args", "kwargs", "fused")  # a fused step that is skipped can leave state uninitialized
FOREIGN = ("bnb", "fused")  # beginnings of timm's names of optimizers of other libraries
UNSUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "LBFGS": "it searches along a line over one batch",
        "SparseAdam": "it needs sparse gradients",
        "adahessian": "it needs second derivatives",
    }
)


class OptimizerByName(Descent):
    """An optimizer of torch.optim by the name of its class, such as NAdam, or one of timm by its name there, which is
    in lower case, such as lion, lamb, or adan.

    OptimizerByName(name="lion", lr=1e-4, weight_decay=0.5, arguments={"betas": (0.9, 0.98)}). Other arguments have the
    defaults of the library; timm's have a momentum of 0.9 where they take one, as timm.optim.create_optimizer_v2 has.
    Weight decay is decoupled from the gradient if it is in the library. None of them is fused: on a GPU, each step
    synchronizes with the device, to skip a non-finite step.
    """

    name: str = Field(
        description="a class of torch.optim, e.g. NAdam, RAdam; or a name of timm.optim.list_optimizers(), e.g. lion"
    )
    lr: float = Field(gt=0, description="learning rate, before the multiplier of the schedule")
    arguments: dict[str, Any] = Field({}, description="further keyword arguments of the optimizer")

    def check(self) -> None:
        """Raise ValueError for a name or arguments that do not exist, or that the optimizer refuses in a first step."""
        taken = [name for name in inspect.signature(self._kind()).parameters if name not in NOT_TAKEN]
        if unknown := [name for name in self.arguments if name not in taken or name in FIELDS]:
            ours = f"; set optimizer.{unknown[0]}" if unknown[0] in FIELDS else ""
            hint = ours or suggestion(unknown[0], [name for name in taken if name not in FIELDS])
            raise ValueError(f"arguments: {self.name} has no {unknown[0]}{hint}")
        if self.weight_decay and "weight_decay" not in taken:
            raise ValueError(f"weight_decay: {self.name} has no weight decay; set it to 0")
        weight = torch.nn.Parameter(torch.ones(2, 2))
        weight.grad = torch.ones(2, 2)
        try:
            self._made([{"params": [weight], "lr": self.lr, "weight_decay": self.weight_decay}]).step()
        except Exception as error:  # whatever the code of a library raises
            raise ValueError(f"arguments: {self.name}: {_first_line(error)}") from None

    def over(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        try:
            return self._made(groups)
        except ValueError as error:  # of parameters that it does not take
            instead = "; use --optimizer Muon" if self.name == "Muon" else ""
            raise ValueError(f"optimizer: {self.name}: {_first_line(error)}{instead}") from None

    def _made(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if self._is_of_torch:
            return self._kind()(groups, lr=self.lr, **self.arguments)  # type: ignore[no-any-return]
        given = {"lr": self.lr, "weight_decay": self.weight_decay, **self.arguments}
        made: torch.optim.Optimizer = _timm().create_optimizer_v2(groups, opt=self.name, **given)
        return made

    @property
    def _is_of_torch(self) -> bool:
        return self.name[:1].isupper()

    def _kind(self) -> Any:
        """The class. Raises ValueError for a name that does not exist."""
        known = _of_torch() if self._is_of_torch else _of_timm()
        if self.name in known:
            return known[self.name]
        if self.name in UNSUPPORTED:
            raise ValueError(f"name: {self.name} is not supported; {UNSUPPORTED[self.name]}")
        names = [*_of_torch(), *(_of_timm() if find_spec("timm") else ())]
        same = [name for name in names if name.lower() == self.name.lower()]
        hint = f"; did you mean {' or '.join(same)}?" if same else did_you_mean(self.name, names)
        where = "torch.optim" if self._is_of_torch else "timm.optim"
        raise ValueError(f"name: {where} has no optimizer {self.name}{hint}")


def _of_torch() -> dict[str, Any]:
    """Name -> class of the optimizers of torch."""
    kinds = {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    return {name: kind for name, kind in kinds.items() if name not in UNSUPPORTED and kind is not torch.optim.Optimizer}


def _of_timm() -> dict[str, Any]:
    """Name -> class of the optimizers of timm. Raises UserError if it is not installed."""
    timm = _timm()
    names = (name for name in timm.list_optimizers() if name not in UNSUPPORTED and not name.startswith(FOREIGN))
    return {name: timm.get_optimizer_info(name).opt_class for name in names}


def _timm() -> Any:
    return library("timm.optim", "timm", "an optimizer of timm, whose names are in lower case,")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
