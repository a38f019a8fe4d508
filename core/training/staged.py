"""--parallel pipeline: each process has some blocks of the network, through torch.distributed.pipelining (Huang et al.
2019, GPipe; Narayanan et al. 2019, PipeDream, for the order of the passes, 1F1B).

Every process reads every batch. The first stage gets its images, the last one its targets; between them, activations
and their gradients are passed on in micro-batches, so that all stages work at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from core.common.errors import UserError
from core.common.ranks import ALONE, Ranks
from core.common.tensors import BatchNorm
from core.loading.batches import Batch
from core.methods import Forward
from core.models.weights import packed
from core.schedules import Clock
from core.training import distributed, pieces
from core.training.checkpoint import Checkpoint
from core.training.cut import cut
from core.training.parallel import PIPELINE, Saves, refuse_built, replace_parameters
from core.training.state import State
from core.training.step import Setup

PREFIX = "stage."  # of the names of the weights in `Piped`


class Stage(nn.Module):
    """Some blocks, with the precision and memory format of the training; what they pass on has the dtype of the weights
    and is contiguous, as messages have to be."""

    def __init__(self, blocks: nn.Module, setup: Setup, dtype: torch.dtype):
        super().__init__()
        self.blocks, self.precision, self.dtype = blocks, setup.precision, dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
        with self.precision():
            passed: torch.Tensor = self.blocks(x)
        return passed.to(self.dtype).contiguous()


class Piped(nn.Module):
    """The whole network as each process sees it: images float [N, C, H, W] -> logits [N, classes] in every process,
    without gradients. Its weights are those of the stage of this process.

    passed: what each stage takes, and the logits, of one image.
    """

    def __init__(self, stage: nn.Module, setup: Setup, passed: Sequence[torch.Tensor]):
        super().__init__()
        self.stage = stage
        self.passed, self.device = passed, setup.device
        self.rank, self.ranks, self.group = dist.get_rank(), dist.get_world_size(), distributed.group_of(setup.device)
        self._part = [Stage(stage, setup, passed[-1].dtype)]  # in a list: its weights are registered already
        self._passes: dict[int, ScheduleGPipe] = {}

    @property
    def is_first(self) -> bool:
        """Whether this process has the first stage."""
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        """Whether this process has the last stage."""
        return self.rank == self.ranks - 1

    def part(self, images: int, needs_gradient: bool) -> PipelineStage:
        """The stage of this process for micro-batches of this many images."""
        takes, gives = self.passed[self.rank : self.rank + 2]

        def example(one: torch.Tensor, needed: bool) -> torch.Tensor:
            return torch.empty((images, *one.shape[1:]), dtype=one.dtype, device=self.device, requires_grad=needed)

        inputs, outputs = example(takes, needs_gradient and not self.is_first), example(gives, needs_gradient)
        return PipelineStage(
            self._part[0], self.rank, self.ranks, self.device, input_args=inputs, output_args=outputs, group=self.group
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        count = len(images)
        with torch.no_grad():
            if count not in self._passes:
                self._passes[count] = ScheduleGPipe(self.part(count, needs_gradient=False), n_microbatches=1)
            logits: torch.Tensor = self._passes[count].step(*([_strided(images)] if self.is_first else []))
            if not self.is_last:
                logits = self.passed[-1].new_empty((count, *self.passed[-1].shape[1:]), device=self.device)
            dist.broadcast(logits, self.ranks - 1, group=self.group)
        return logits


class Staged:
    """See `Parallel`. microbatches: parts of each micro-batch of the declaration."""

    divided = True

    def __init__(self, ranks: Ranks, microbatches: int):
        self.ranks, self.microbatches = ranks, microbatches
        self.names: list[str] = []  # of the weights and buffers of the whole network, in order
        self._schedules: dict[torch.Size, Schedule1F1B] = {}

    def shares(self, ranks: Ranks) -> Ranks:
        return ALONE

    def place(self, device: torch.device) -> torch.device:
        return torch.device("cpu")  # the whole network may be too large for a GPU

    def connect(self, parts: Any, probe: Callable[[nn.Module], None]) -> None:
        state, setup = parts.state, parts.setup
        network, self.device = state.model, setup.device
        refuse_built(PIPELINE, state.trained, state.scaler is not None)
        self._refuse(parts)
        parts.flops()  # counted while there is a whole network
        self.names = list(network.state_dict())
        stages = cut(network, self.ranks.ranks)
        batch = next(iter(parts.train.epoch(0)))
        image = setup.normalize(type(batch)(*(tensor[:1] for tensor in batch))).images.to("cpu")
        passed = list(_passed(stages, image, next(network.parameters()).dtype))

        def piped(stage: nn.Module) -> Piped:
            return Piped(stage.to(self.device), setup, passed)

        own = stages[self.ranks.rank]
        state.trained["model"] = piped(own)
        if state.ema is not None:
            state.ema.module = piped(cut(state.ema.module, self.ranks.ranks)[self.ranks.rank])
        state.trained.to(self.device)
        state.forward = Forward(state.trained, setup.method, setup.loss)
        self.parameters = {name: (p, p) for name, p in state.trained.named_parameters()}
        replace_parameters(state.optimizer, {p: p for p, _ in self.parameters.values()})

    def _refuse(self, parts: Any) -> None:
        experiment, network = parts.experiment, parts.state.model
        passes = experiment.grad_accum_steps * self.microbatches
        if self.microbatches > 1 and any(isinstance(module, BatchNorm) for module in network.modules()):
            advice = f"use --microbatches 1 --grad_accum_steps {passes}, or --model.norm group where the network has it"
            seen = f"BatchNorm would see {self.microbatches} parts of a batch, one at a time"
            raise UserError([f"parallel pipeline: {seen}; {advice}"])
        if passes < self.ranks.ranks:
            reason = f"{self.ranks.ranks} stages work at the same time on as many micro-batches, and there are {passes}"
            raise UserError([f"parallel pipeline: {reason}; raise --microbatches or --grad_accum_steps"])
        if parts.train.plan.size % passes:
            raise UserError(
                [f"microbatches: {passes} micro-batches do not divide a batch of {parts.train.plan.size} images"]
            )

    def gradients(self, setup: Setup, state: State, batch: Batch, clock: Clock) -> list[torch.Tensor]:
        network: Any = state.model
        rows = len(batch.keys)
        for parameter, _ in self.parameters.values():
            parameter.grad = None
        if batch.images.shape not in self._schedules:
            self._schedules[batch.images.shape] = self._schedule(setup, network, rows)
        schedule = self._schedules[batch.images.shape]
        losses: list[torch.Tensor] = []
        images = [_strided(batch.images)] if network.is_first else []
        if network.is_last:
            logits = schedule.step(*images, target=batch.targets, losses=losses).detach()
            right = setup.task.right(logits, batch.targets)
            found = torch.stack([torch.stack(losses).sum().double(), right.double()]).detach()
        else:
            schedule.step(*images)
            found = torch.empty(2, dtype=torch.float64, device=self.device)
        dist.broadcast(found, network.ranks - 1, group=network.group)
        return list(found)

    def _schedule(self, setup: Setup, network: Piped, rows: int) -> Schedule1F1B:
        passes = setup.grad_accum_steps * self.microbatches

        def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            with setup.precision():
                return setup.loss(logits, targets).sum() / rows

        return Schedule1F1B(network.part(rows // passes, True), n_microbatches=passes, loss_fn=loss, scale_grads=False)

    def replay(self, setup: Setup, state: State, batch: Batch, clock: Clock) -> Mapping[str, torch.Tensor]:
        self.gradients(setup, state, batch, clock)
        own = {name.replace(f".{PREFIX}", "."): p.grad for name, (p, _) in self.parameters.items()}
        return {name: gradient for name, gradient in own.items() if gradient is not None}

    def norm(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        return distributed.norm_of_parts(gradients, self.device)

    def own(self, parameters: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return parameters

    def align(self, module: nn.Module) -> None:
        pass  # no two processes have the same buffers

    def serialized(self, module: nn.Module) -> bytes:
        own = {name.removeprefix(PREFIX): tensor.cpu() for name, tensor in module.state_dict().items()}
        each: list[Any] = [None] * self.ranks.ranks
        dist.gather_object(own, each if not self.ranks.rank else None)
        if self.ranks.rank:
            return b""
        whole = {name: tensor for part in each for name, tensor in part.items()}
        return packed({name: whole[name] for name in self.names})

    def load(self, module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        wanted = distributed.gathered([name.removeprefix(PREFIX) for name in module.state_dict()])
        each = [{PREFIX + name: weights[name] for name in names} for names in wanted] if not self.ranks.rank else None
        own: list[Any] = [None]
        dist.scatter_object_list(own, each)
        module.load_state_dict(own[0])

    def saver(self, folder: Path, every: str, belongs: dict[str, Any]) -> AbstractContextManager[Saves]:
        return pieces.ShardSaver(folder, every, belongs, self.parameters)

    def restore(self, state: State, found: Checkpoint) -> None:
        pieces.load(state, found, self.parameters)


def _strided(images: torch.Tensor) -> torch.Tensor:
    """The images with the strides of the example that a stage was made with. torch 2.11 compares them, also where there
    is one channel and `contiguous` would do nothing."""
    return images.flatten().view(images.shape)


def _passed(stages: Sequence[nn.Module], image: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Yield what each stage takes, and the logits, of one image. Raises UserError if it is not a tensor."""
    x = image
    yield x
    for stage in stages:
        training = stage.training
        with torch.no_grad():
            x = stage.eval()(x)
        stage.train(training)
        if not isinstance(x, torch.Tensor):
            raise UserError([f"parallel pipeline: the network passes on a {type(x).__name__}, not a tensor"])
        x = x.to(dtype)
        yield x
