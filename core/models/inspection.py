"""A network looked at from outside, and left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import nn

from core.common.text import did_you_mean

Hook = Callable[[str, nn.Module, Any], Any]


@contextmanager
def evaluation_mode(*networks: object) -> Iterator[None]:
    """Networks in evaluation mode; afterwards each of their modules in its own. What is not a module, as a loss may
    be, is left alone."""
    found = [network for network in networks if isinstance(network, nn.Module)]
    modes = [(module, module.training) for network in found for module in network.modules()]
    for network in found:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def hooked(modules: Iterable[tuple[str, nn.Module]], hook: Hook) -> Iterator[None]:
    """Call hook(name, module, output) after each forward pass of these modules; what it returns, unless it is None,
    takes the place of the output."""
    handles = [module.register_forward_hook(partial(_call, hook, name)) for name, module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _call(hook: Hook, name: str, module: nn.Module, inputs: object, output: Any) -> Any:
    return hook(name, module, output)


def matching(network: nn.Module, patterns: Sequence[str], field: str) -> dict[str, nn.Module]:
    """The modules whose names match a pattern, by name. field: for the message. Raises ValueError for a pattern that
    matches no module."""
    modules = {name: module for name, module in network.named_modules() if name}
    chosen: dict[str, nn.Module] = {}
    for pattern in patterns:
        found = {name: module for name, module in modules.items() if fnmatchcase(name, pattern)}
        if not found:
            raise ValueError(f"{field}: no module of the model matches {pattern}{did_you_mean(pattern, modules)}")
        chosen |= found
    return chosen


def within(modules: Iterable[nn.Module]) -> set[nn.Module]:
    """These modules and all that are inside them."""
    return {inner for module in modules for inner in module.modules()}
