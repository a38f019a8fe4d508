"""--parallel: how the network of a run is divided among its processes. One interface, which the loop does not see.

`ddp` (replicated.py): each process has the whole network, and a share of each batch.  `fsdp` (sharded.py): each
process has a shard of every weight, and a share of each batch.  `pipeline` (staged.py): each process has some blocks of
the network, which every batch passes through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from core.augment import Resize
from core.common.errors import UserError
from core.common.ranks import Ranks
from core.experiment import Experiment
from core.launch import Launch
from core.methods import Supervised
from core.optimizers import SGD, Adam, AdamW, RMSprop

if TYPE_CHECKING:
    from core.loading.batches import Batch
    from core.schedules import Clock

DDP, FSDP, PIPELINE = "ddp", "fsdp", "pipeline"
BY_ELEMENT = (SGD, Adam, AdamW, RMSprop)  # optimizers that update each weight by itself, whatever shard it is in


class Saves(Protocol):
    """Writes checkpoints; see `Saver` in core/training/checkpoint.py. Entered and left by every process."""

    seconds_taken: float

    def due(self, step: int) -> bool: ...

    def save(self, state: Any) -> None: ...

    def wait(self) -> None: ...

    def cost(self) -> str: ...


class Parallel(Protocol):
    """A way to divide a run. Every method is called in every process, and may communicate.

    divided: whether no process has the whole network, so that all of them take part in each forward pass.
    """

    divided: bool

    def shares(self, ranks: Ranks) -> Ranks:
        """The processes that batches are divided among, as this process sees them."""
        ...

    def place(self, device: torch.device) -> torch.device:
        """Where the network is built and checked, before `connect`. device: of the training."""
        ...

    def connect(self, parts: Any, probe: Any) -> None:
        """Divide the network, its averages and the parameters of the optimizer. parts: an Assembly.  probe: see
        `small_step`. Raises UserError."""
        ...

    def gradients(self, setup: Any, state: Any, batch: Batch, clock: Clock) -> list[torch.Tensor]:
        """Compute the gradients of the parameters of the optimizer, as `gradients` in core/training/step.py does."""
        ...

    def replay(self, setup: Any, state: Any, batch: Batch, clock: Clock) -> Mapping[str, torch.Tensor]:
        """The gradients of a step that is repeated to find what is not finite, by the name of the parameter; those of
        this process, if it has the whole network."""
        ...

    def norm(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """The 2-norm of the gradient of the whole network, of which this process has these gradients."""
        ...

    def own(self, parameters: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        """The parameters of the optimizer that belong to these parameters of the network."""
        ...

    def align(self, module: nn.Module) -> None:
        """Make the buffers of rank 0 everybody's, where processes have the same ones."""
        ...

    def serialized(self, module: nn.Module) -> bytes:
        """The weights of the whole network in the format of safetensors, in rank 0; empty elsewhere."""
        ...

    def load(self, module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        """Load the weights of the whole network. weights: in rank 0; not used elsewhere."""
        ...

    def saver(self, folder: Path, every: str, belongs: dict[str, Any]) -> AbstractContextManager[Saves]:
        """What writes the checkpoints of this process."""
        ...

    def restore(self, state: Any, found: Any) -> None:
        """Load a checkpoint that `read` in core/training/checkpoint.py has returned to rank 0."""
        ...


def refuse_division(experiment: Experiment, launch: Launch, ranks: Ranks) -> None:
    """Raise UserError, naming all fields, for what cannot be combined with --parallel."""
    if launch.parallel == DDP:
        return
    wrong = [*_alone(launch, ranks), *_against(experiment, launch)]
    if wrong:
        raise UserError(f"parallel {launch.parallel}: {line}" for line in wrong)


def _alone(launch: Launch, ranks: Ranks) -> Iterator[str]:
    if ranks.ranks == 1:
        start = "use --processes 2 or torchrun, or leave out --parallel"
        yield f"it divides the network among several processes, and this is one; {start}"


def _against(experiment: Experiment, launch: Launch) -> Iterator[str]:
    """Yield the reasons against a division of this run."""
    for name in ("lora", "prune", "quantize"):
        if getattr(experiment, name):
            yield f"{name} changes whole weights, of which each process has a part; leave it out"
    if type(experiment.optimizer) not in BY_ELEMENT:
        kind, known = type(experiment.optimizer).__name__, ", ".join(each.__name__ for each in BY_ELEMENT)
        yield f"optimizer {kind} may need whole weights, of which each process has a part; choose one of {known}"
    if type(experiment.method) is not Supervised:
        yield f"method {type(experiment.method).__name__} is not supported; use Supervised"
    if experiment.precision not in ("auto", "fp32", "bf16"):
        yield f"precision {experiment.precision} is not supported; use fp32 or bf16"
    if experiment.grad_compress != "none":
        yield "grad_compress changes what DistributedDataParallel sends; leave it out"
    if experiment.sync_every > 1:
        yield "sync_every averages whole networks; leave it out"
    if launch.deterministic_ranks:
        yield "deterministic_ranks needs the whole network in each process; leave it out"
    if launch.parallel == PIPELINE:
        yield from _against_stages(experiment)
    if launch.compile == "on":
        yield "compile translates the whole network; use --compile off"
    if launch.together:
        yield "together trains several networks in one process; leave it out"
    if launch.diagnose:
        yield "diagnose looks at the whole network in one process; leave it out"


def _against_stages(experiment: Experiment) -> Iterator[str]:
    """Yield the reasons against stages."""
    for name in ("freeze", "swa", "sync_batch_norm"):
        if getattr(experiment, name):
            yield f"{name} needs all blocks of the network in each process; leave it out, or use --parallel fsdp"
    if any(isinstance(step, Resize) for step in experiment.augment):
        yield "augment.resize changes the size of images, and with it what the stages pass on; leave it out"


def refuse_built(kind: str, trained: nn.ModuleDict, scaled: bool) -> None:
    """Raise UserError for parts with weights of their own, and for fp16, which is known once everything is built."""
    wrong = [name for name, part in trained.items() if name != "model" and any(True for _ in part.parameters())]
    if wrong:
        raise UserError(f"parallel {kind}: the {name} has weights of its own, which is not supported" for name in wrong)
    if scaled:
        raise UserError([f"parallel {kind}: precision fp16 is not supported; use fp32 or bf16"])


def replace_parameters(optimizer: torch.optim.Optimizer, own: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Let an optimizer that has taken no step update other tensors in place of its parameters, in the same groups.

    own: parameter -> the tensor that takes its place; a parameter that it lacks is left out.
    """
    before: dict[Any, dict[str, Any]] = dict(optimizer.state)
    for group in optimizer.param_groups:
        group["params"] = [own[parameter] for parameter in group["params"] if parameter in own]
    optimizer.state.clear()
    for parameter, values in before.items():
        if parameter in own:  # before the first step, all that it holds is zero
            optimizer.state[own[parameter]] = {name: torch.zeros_like(own[parameter]) for name in values}
