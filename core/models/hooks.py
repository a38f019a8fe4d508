"""Changes to a built network that keep the names of its parameters: gradient checkpointing, fp32, dropout, resizing.

They are hooks and classes of this module instead of wrappers and closures, so that a network with them can be copied
(for the moving average and the sanity check) and pickled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from core.common.tensors import BatchNorm
from core.models.inspection import matching


class Recomputed(nn.Sequential):
    """A Sequential with gradient checkpointing: activations inside its blocks are recomputed in the backward pass (Chen
    et al. 2016). Gradients, dropout masks and running statistics are the same as without it."""

    def forward(self, x: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)  # type: ignore[no-untyped-call]
        from torch.utils.checkpoint import checkpoint

        for block in _blocks(list(self)):
            run, contexts = partial(_run, block), partial(_contexts, block)
            checkpointed = _has_matrix(block[0])
            x = checkpoint(run, x, use_reentrant=False, context_fn=contexts) if checkpointed else run(x)
        return x


def recompute(network: nn.Module) -> int:
    """Enable gradient checkpointing in every innermost Sequential of layers with weights; returns their number.

    Innermost: a plain nn.Sequential that has no nn.Sequential among its children.
    """
    plain = type(network) is nn.Sequential and any(map(_has_matrix, network))
    if plain and not any(type(child) is nn.Sequential for child in network.children()):
        network.__class__ = Recomputed
        return 1
    return sum(recompute(child) for child in network.children())


def _blocks(layers: list[nn.Module]) -> list[list[nn.Module]]:
    """Blocks that start at a layer with a weight matrix; an in-place ReLU at the start would overwrite the input."""
    blocks: list[list[nn.Module]] = []
    for layer in layers:
        if not blocks or _has_matrix(layer):
            blocks.append([])
        blocks[-1].append(layer)
    return blocks


def _has_matrix(module: nn.Module) -> bool:
    return any(weight.dim() > 1 for weight in module.parameters())


def _run(layers: Sequence[nn.Module], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def _contexts(layers: Sequence[nn.Module]) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _frozen_statistics(layers)


@contextmanager
def _frozen_statistics(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Context manager without updates of BatchNorm statistics, which must not count a recomputed batch twice."""
    norms = [norm for layer in layers for norm in layer.modules() if isinstance(norm, BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # not track_running_stats, which would change the number of tensors saved for the backward pass
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked


def keep_in_fp32(network: nn.Module, patterns: Sequence[str]) -> None:
    """Modules whose names match a pattern cast their inputs to float32 and compute in it, also under autocast.

    Raises ValueError for a pattern that matches no module.
    """
    chosen = matching(network, patterns, "model.fp32")
    for module in chosen.values():
        module.register_forward_pre_hook(_enter_fp32, with_kwargs=True)
        module.register_forward_hook(_leave_fp32, always_call=True)


def _enter_fp32(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    devices = [value.device.type for value in (*inputs, *named.values()) if isinstance(value, torch.Tensor)]
    context = torch.autocast(devices[0] if devices else "cpu", enabled=False)
    context.__enter__()
    module.__dict__.setdefault("_entered", []).append(context)
    return tuple(map(_floated, inputs)), {name: _floated(value) for name, value in named.items()}


def _leave_fp32(module: nn.Module, inputs: object, output: object) -> None:
    module.__dict__["_entered"].pop().__exit__(None, None, None)


def _floated(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def dropout_before(module: nn.Module, p: float) -> None:
    """Apply dropout with probability p to the input of this module (Srivastava et al. 2014)."""
    if p:
        module.register_forward_pre_hook(partial(_drop_input, p))


def _drop_input(p: float, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (F.dropout(inputs[0], p, module.training), *inputs[1:])


def resize_input(network: nn.Module, side: int) -> None:
    """Resize the network's input images [N, C, H, W] to [N, C, side, side], bilinear, antialiased when downsampling."""
    network.register_forward_pre_hook(partial(_resize_input, side))


def _resize_input(side: int, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (F.interpolate(inputs[0], (side, side), mode="bilinear", antialias=True), *inputs[1:])


def drop_branches(branches: Sequence[nn.Module], deepest: float) -> None:
    """Stochastic depth (Huang et al. 2016): drop the output of branch l of L with probability l / L * deepest.

    branches: the last module of each residual branch, in order. Branches are dropped per image, and kept outputs are
    scaled by 1 / (1 - p) in training; the paper drops them per batch and scales in evaluation.
    """
    for place, branch in enumerate(branches, 1):
        if deepest:
            branch.register_forward_hook(partial(_drop_output, deepest * place / len(branches)))


def _drop_output(p: float, module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    from torchvision.ops import stochastic_depth

    dropped: torch.Tensor = stochastic_depth(output, p, "row", module.training)
    return dropped
