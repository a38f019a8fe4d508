"""`summary --memory`: the memory that an optimizer step needs, computed before anything is allocated for it.

Two steps run on fake tensors, which have shapes and no data, while the storages that are alive are added up. torch's
own MemTracker does not allow several forward passes in a step. Scratch memory that kernels allocate for themselves
(oneDNN's, cuDNN's) is not part of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from core.common.errors import UserError
from core.common.terminal import console
from core.common.text import size
from core.diagnostics.batch_size import of_size
from core.experiment import Experiment
from core.launch import Launch
from core.loading.batches import Batch
from core.loading.images import Splits
from core.optimizers.composite import Composite
from core.schedules import Clock
from core.training.assemble import Assembly, assemble, prepare
from core.training.runtime import open_runtime
from core.training.smoke import declared
from core.training.step import equal_weights, gradients

SAMPLED = 8  # images that are read and augmented; their rows are repeated without being copied
DIVIDED = (2, 4, 8)  # micro-batches, and processes, that are tried
COMPUTED, ESTIMATED = "computed", "estimated"
SCRATCH = (
    "Scratch memory of kernels, the libraries themselves, and images that are kept in memory come on top. The "
    "numbers are those of a CPU; they are unproven on a GPU."
)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of memory in the second optimizer step, the first one with the state of the optimizer.

    weights: parameters and buffers, those of averages and teachers included.  gradients: of trained parameters.
    optimizer: its state.  batch: images and targets.  peak: the largest sum of all tensors that are alive at once.
    layers: what each module keeps for the backward pass, by its name; empty with gradient checkpointing, which keeps
    the inputs of blocks.
    """

    weights: int
    gradients: int
    optimizer: int
    batch: int
    peak: int
    layers: dict[str, int]

    @property
    def activations(self) -> int:
        """What is alive at the peak besides weights, gradients, optimizer state and batch: outputs of layers that wait
        for the backward pass, and temporary tensors. Gradients that do not exist yet at the peak leave room for it."""
        return max(0, self.peak - self.weights - self.optimizer - self.batch - self.gradients)


@dataclass(frozen=True)
class Way:
    """A way to train the same declaration. option: what to type.  need: bytes on each device.  note: how they are
    known."""

    option: str
    need: int
    note: str


def step_memory(parts: Assembly, images: int | None = None, micro_batches: int = 1) -> StepMemory:
    """Compute the memory of an optimizer step with the declared batch, or with `images` images.

    micro_batches: number of micro-batches for each declared one. A step that reads the value of a tensor cannot be
    computed on fake tensors: it is executed. The assembly should not be used for training afterwards.
    """
    setup = parts.setup
    few = next(iter(parts.train.epoch(0)))
    few = Batch(*(tensor[: SAMPLED * setup.views] for tensor in few))
    few = setup.augment(setup.normalize(few), _clock(parts))
    rows = (images or parts.train.plan.share) * setup.views
    parts.state.trained.train()
    parts.state.split = micro_batches
    try:
        return _followed(parts, few, rows, FakeTensorMode(allow_non_fake_inputs=True))
    except (DataDependentOutputException, DynamicOutputShapeException):
        return _followed(parts, few, rows, None)
    finally:
        parts.state.split = 1


def _followed(parts: Assembly, few: Batch, rows: int, fake: FakeTensorMode | None) -> StepMemory:
    """Follow two steps with `rows` rows. fake: the mode for fake tensors; None: tensors are real."""
    setup, state = parts.setup, parts.state
    modules, optimizer, clock = _modules(parts), parts.state.optimizer, _clock(parts)
    weights = [tensor for module in modules for tensor in module.state_dict(keep_vars=True).values()]
    before = [{key: dict(values) for key, values in each.items()} for each in _states(optimizer)]
    layers: dict[str, int] = {}
    try:
        with fake or nullcontext():
            batch = of_size(Batch(*map(fake.from_tensor, few)) if fake else few, rows)
            batch = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))

            def closure() -> torch.Tensor:
                return gradients(setup, state, state.forward.step, batch, clock)[0]

            with _Tracker([*weights, *_tensors(before), *batch]) as tracker, _kept(state.model, layers):
                for _ in range(2):
                    layers.clear()
                    optimizer.zero_grad()
                    optimizer.step(closure)  # type: ignore[arg-type]
        return StepMemory(
            weights=_bytes(weights),
            gradients=_bytes(p for group in optimizer.param_groups for p in group["params"]),
            optimizer=_bytes(_tensors(_states(optimizer))),
            batch=_bytes(batch),
            peak=tracker.peak,
            layers=layers,
        )
    finally:
        equal_weights.cache_clear()  # a later step must not find a fake tensor there
        optimizer.zero_grad()
        for now, then in zip(_states(optimizer), before, strict=True):
            for key, values in now.items():
                values.clear()
                values.update(then.get(key, {}))


def _clock(parts: Assembly) -> Clock:
    return Clock(0, parts.context.steps_per_epoch, parts.setup.epochs)


def report_memory(experiment: Experiment, launch: Launch, available: float | None) -> None:
    """Print the memory of an optimizer step, and which ways to train fit. available: in GB; None: that of the device.

    Raises UserError as `train` does.
    """
    room = (round(available * 2**30), "--available") if available else available_memory()
    launch = launch.but({"device": "cpu", "compile": "off"})
    with open_runtime(launch, None) as runtime:
        experiment = declared(experiment, launch, runtime.ranks)
        parts = prepare(experiment, launch, runtime.ranks)
        need = step_memory(parts)
        show_memory(need, ways(experiment, launch, parts, need), room, parts.precision)


def ways(experiment: Experiment, launch: Launch, parts: Assembly, need: StepMemory) -> list[Way]:
    """The ways to train the same declaration with less memory on each device, those that cost least first.

    parts: the assembly of the declaration. Ways on one device are computed as the declaration is; those on several
    devices follow from its numbers: ddp keeps gradients twice, fsdp gathers a block at a time, and stages of a pipeline
    are taken to be equal.
    """
    share, steps = parts.train.plan.share, parts.setup.grad_accum_steps
    found = []
    if parts.precision == "fp32":
        found += _changed("--precision bf16", {"precision": "bf16"}, experiment, launch, parts.splits)
    for times in DIVIDED:
        if share % (steps * times) == 0:
            divided = step_memory(parts, micro_batches=times)
            found.append(Way(f"--grad_accum_steps {steps * times}", divided.peak, COMPUTED))
    checkpointing = {"model.grad_checkpointing": True}
    found += _changed("--model.grad_checkpointing true", checkpointing, experiment, launch, parts.splits)
    state = need.weights + need.gradients + need.optimizer
    block = max((_bytes(child.parameters()) for child in parts.state.model.children()), default=0)
    for ranks in DIVIDED:
        if share % (2 * ranks * steps):
            continue
        own = step_memory(parts, share // ranks)
        found += [
            Way(f"--parallel ddp, {ranks} processes", own.peak + own.gradients, ESTIMATED),
            Way(f"--parallel fsdp, {ranks} processes", own.peak - state + state // ranks + 2 * block, ESTIMATED),
            Way(f"--parallel pipeline, {ranks} processes", need.batch + (need.peak - need.batch) // ranks, ESTIMATED),
        ]
    return found


def _changed(option: str, change: dict[str, Any], experiment: Experiment, launch: Launch, splits: Splits) -> list[Way]:
    """The way that a change of the declaration makes; none if the model does not support it, or has it already."""
    other = experiment.but(change)
    if other == experiment:
        return []
    try:
        return [Way(option, step_memory(assemble(other, splits, launch)).peak, COMPUTED)]
    except UserError:
        return []


def available_memory() -> tuple[int, str]:
    """(bytes, of what): the memory of the first GPU, or what is free on this machine."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, torch.cuda.get_device_name(0)
    return psutil.virtual_memory().available, "free on this machine"


def show_memory(need: StepMemory, found: Sequence[Way], room: tuple[int, str], precision: str) -> None:
    """Print what a step needs, by purpose and by layer, and which ways fit into `room`, (bytes, of what)."""
    from rich.table import Table

    out = console(140)
    table = Table(title=f"memory of an optimizer step, {precision}", show_footer=True)
    table.add_column("what for", "at the peak")
    table.add_column("memory", size(need.peak), justify="right")
    for name in ("weights", "gradients", "optimizer", "batch", "activations"):
        table.add_row(name, size(getattr(need, name)))
    out.print(table)
    if need.layers:
        table = Table(title="kept by layer for the backward pass: the ten largest")
        table.add_column("layer")
        table.add_column("memory", justify="right")
        for name, count in sorted(need.layers.items(), key=lambda each: -each[1])[:10]:
            table.add_row(name or "(root)", size(count))
        out.print(table)
    available, where = room
    table = Table(title=f"what fits into {size(available)} ({where})")
    table.add_column("way")
    table.add_column("memory of each device", justify="right")
    table.add_column("fits")
    table.add_column("how it is known")
    for way in [Way("as declared", need.peak, COMPUTED), *found]:
        table.add_row(way.option, size(way.need), "yes" if way.need <= available else "no", way.note)
    out.print(table)
    out.print(SCRATCH, highlight=False)


class _Tracker(TorchDispatchMode):
    """Adds up the bytes of the storages that are alive: of the tensors that exist, and of those that operations
    return."""

    def __init__(self, existing: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in existing:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return output

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen[storage] = None
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, count: int) -> None:
        self.now -= count


def _modules(parts: Assembly) -> list[nn.Module]:
    """Every module that a step uses or that is kept beside it."""
    state = parts.state
    averages = [average for average in (state.ema, state.swa) if average is not None]
    # the teachers of Distill, which are constant, are not among the modules that are trained
    teachers = [teacher.network for teacher in getattr(parts.setup.method, "teachers", ())]
    return [state.trained, *averages, *teachers]


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages of these tensors, each counted once."""
    storages = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in tensors)}
    return sum(storage.nbytes() for storage in storages.values())


def _states(optimizer: torch.optim.Optimizer) -> list[dict[Any, dict[str, Any]]]:
    """The state of an optimizer, or of each of those that it combines: {parameter: its values by name}."""
    if isinstance(optimizer, Composite):
        return [state for part in optimizer.inner for state in _states(part)]
    return [optimizer.state]


def _tensors(states: Sequence[dict[Any, dict[str, Any]]]) -> list[torch.Tensor]:
    found = [value for state in states for values in state.values() for value in values.values()]
    return [value for value in found if isinstance(value, torch.Tensor)]


@contextmanager
def _kept(model: nn.Module, layers: dict[str, int]) -> Iterator[None]:
    """Add to `layers` the bytes that each module keeps for the backward pass, parameters excepted."""
    inside: list[str] = []
    seen = WeakIdKeyDictionary({parameter.untyped_storage(): None for parameter in model.parameters()})

    def enter(name: str, module: nn.Module, inputs: object) -> None:
        inside.append(name)

    def leave(module: nn.Module, inputs: object, output: object) -> None:
        inside.pop()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if inside and storage not in seen:
            seen[storage] = None
            layers[inside[-1]] = layers.get(inside[-1], 0) + storage.nbytes()
        return tensor

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(enter, name)))
        handles.append(module.register_forward_hook(leave, always_call=True))  # recomputing ends with an exception
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
    finally:
        for handle in handles:
            handle.remove()
