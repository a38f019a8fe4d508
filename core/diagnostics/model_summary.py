"""`summary`: table of the layers of a network with output shapes, parameters and FLOPs. Nothing is trained or
recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from core.common.terminal import console, tell
from core.diagnostics.drawing import Drawing
from core.experiment import Experiment
from core.launch import Launch
from core.loading.batches import Batch
from core.models import counted_flops
from core.models.inspection import evaluation_mode, hooked
from core.training.assemble import prepare
from core.training.runtime import open_runtime
from core.training.smoke import declared

ADAPTER = ".parametrizations."  # within the names of what belongs to the weight of a layer, for torch


@dataclass(frozen=True)
class Layer:
    """A row of the table: a module that has no children, owns parameters or computes besides its children.

    shape: of its output for one image, without the batch dimension; None if it is not called as a module.  parameters,
    trainable: number of its own parameters; shared parameters count for the first owner.  flops: for one image, without
    those of its children.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    trainable: int
    flops: int


@dataclass(frozen=True)
class Summary:
    """Summary of a network.

    flops: of a forward pass of one image, counted as described in core/models/flops.py.  beside: number of parameters
    of loss and method, if any.
    """

    image_shape: tuple[int, int, int]
    layers: tuple[Layer, ...]
    parameters: int
    trainable: int
    flops: int
    beside: dict[str, int]


def summary(experiment: Experiment, launch: Launch | None = None, drawing: Drawing | None = None) -> Summary:
    """Summarize the network that `train` would train, and draw it as declared. Raises UserError as `train` does."""
    launch = launch or Launch()
    with open_runtime(launch, None) as runtime:
        chosen = declared(experiment, launch, runtime.ranks)
        parts = prepare(chosen, launch, runtime.ranks)
        batch = next(iter(parts.val.epoch(0)))
        image = parts.setup.normalize(Batch(*(tensor[:1] for tensor in batch))).images
        beside = {name: _count(part) for name, part in parts.state.trained.items() if name != "model"}
        if drawing and (path := drawing.draw(parts.state.model, image)):
            tell(f"the network is drawn in {path}")
        return described(parts.state.model, image, parts.context.image_shape, beside)


def described(
    model: nn.Module, image: torch.Tensor, image_shape: tuple[int, int, int], beside: dict[str, int] | None = None
) -> Summary:
    """Summarize a model by running one normalized image [1, C, H, W] through it, in evaluation mode."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, module: nn.Module, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) else output
        if isinstance(first, torch.Tensor):
            shapes[name] = tuple(first.shape[1:])

    with evaluation_mode(model), hooked(model.named_modules(), note), counted_flops() as counter:
        model(image)
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    rows = tuple(_rows(model, shapes, flops))
    trainable = sum(row.trainable for row in rows)
    return Summary(image_shape, rows, _count(model), trainable, counter.get_total_flops(), beside or {})


def _rows(model: nn.Module, shapes: dict[str, tuple[int, ...]], flops: dict[str, int]) -> list[Layer]:
    rows, seen, root = [], set(), type(model).__name__
    for name, module in model.named_modules():
        if ADAPTER in f"{name}.":
            continue
        parts = getattr(module, ADAPTER[1:-1], nn.Module())  # the weight and the matrices of a layer with LoRA
        own = [p for p in [*module.parameters(recurse=False), *parts.parameters()] if p not in seen]
        seen.update(own)
        full = f"{root}.{name}" if name else root  # names in torch's counter start with the class of the root module
        computed = flops[full] - _below(module, full, flops) if full in flops else 0
        if own or computed or not list(module.children()):
            trainable = sum(p.numel() for p in own if p.requires_grad)
            total = sum(p.numel() for p in own)
            kind = type(module).__name__
            kind = f"{kind.removeprefix('Parametrized')} with LoRA" if parts.state_dict() else kind
            rows.append(Layer(name, kind, shapes.get(name), total, trainable, computed))
    return rows


def _below(module: nn.Module, full: str, flops: dict[str, int]) -> int:
    """FLOPs of the children; of the grandchildren if a child is not called as a module itself."""
    names = ((f"{full}.{name}", child) for name, child in module.named_children() if f".{name}." != ADAPTER)
    return sum(flops[name] if name in flops else _below(child, name, flops) for name, child in names)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def show(found: Summary) -> None:
    """Print the summary as a table."""
    from rich.table import Table

    table = Table(title=f"input: one image of {'x'.join(map(str, found.image_shape))}", show_footer=True)
    table.add_column("layer", "total")
    table.add_column("kind")
    table.add_column("output shape")
    table.add_column("parameters", f"{found.parameters:,}", justify="right")
    table.add_column("share", justify="right")
    table.add_column("trainable", f"{found.trainable:,}", justify="right")
    table.add_column("FLOPs", f"{found.flops:,}", justify="right")
    for layer in found.layers:
        shape = "x".join(map(str, layer.shape)) if layer.shape is not None else "-"
        share = f"{layer.parameters / max(1, found.parameters):.1%}" if layer.parameters else ""
        trainable = "" if not layer.parameters else "yes" if layer.trainable == layer.parameters else "no"
        if 0 < layer.trainable < layer.parameters:
            trainable = f"{layer.trainable:,}"
        numbers = [f"{number:,}" if number else "" for number in (layer.parameters, layer.flops)]
        table.add_row(layer.name or "(root)", layer.kind, shape, numbers[0], share, trainable, numbers[1])
    out = console(140)
    out.print(table)
    for name, count in found.beside.items():
        out.print(f"the {name} has {count:,} parameters", highlight=False)
