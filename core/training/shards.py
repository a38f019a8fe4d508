"""Virtual shards: a step whose bits do not depend on the number of processes (`--deterministic_ranks`).

Floating-point addition is not associative, so a sum over images depends on how they are divided among processes. Here,
each batch consists of a fixed number of shards, a power of two. The gradients of each are computed by themselves, from
random numbers of its own, and added in pairs, then these sums in pairs, and so on (pairwise summation; Higham 1993,
"The accuracy of floating point summation"). Each process computes one subtree of the sums; the rest of the
same tree is the sums of two processes, then of two of these, and so on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from core import randomness as K
from core.common.errors import UserError
from core.common.machine import usable_cores
from core.common.tensors import BatchNorm
from core.context import Clock
from core.experiment import Experiment
from core.launch import Launch
from core.loading.batches import Batch
from core.methods import LossFunction, Method, Supervised
from core.training import distributed

Augmentation = Callable[[Batch, Clock], Batch]


class OnePerProcess:
    """Each process computes its share of a batch at once; gradients are averaged by DistributedDataParallel."""

    divides = True  # if memory runs out, a step is taken in more micro-batches

    def augmented(self, augment: Augmentation) -> Augmentation:
        """The augmentation of what a process computes of a batch."""
        return augment

    def parts(self, batch: Batch, step: int) -> Iterable[Batch]:
        """What a process computes one after the other, at an optimizer step."""
        return (batch,)

    def gradients(
        self,
        trained: Sequence[torch.Tensor],
        batch: Batch,
        step: int,
        compute: Callable[[Batch], list[torch.Tensor]],
    ) -> list[torch.Tensor]:
        """Compute the gradients of `trained` for a batch. compute: does so for one part of it, and returns the mean
        loss, the number of correct predictions, and further scalars."""
        return compute(batch)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of what `gradients` returned over all processes, in place."""
        return distributed.mean(values)


@dataclass(frozen=True)
class Shards(OnePerProcess):
    """As OnePerProcess, in `count` virtual shards. rank: this process computes shards rank * count / ranks to (rank +
    1) * count / ranks - 1, which are as many equal parts of its share of a batch, one after the other."""

    count: int
    rank: int
    ranks: int
    seed: int

    divides = False  # other micro-batches give other bits

    @property
    def own(self) -> int:
        """Number of shards of this process."""
        return self.count // self.ranks

    def augmented(self, augment: Augmentation) -> Augmentation:
        def each(batch: Batch, clock: Clock) -> Batch:
            return Batch(*map(torch.cat, zip(*(augment(part, clock) for part in self._divided(batch)), strict=True)))

        return augment if self.own == 1 else each

    def parts(self, batch: Batch, step: int) -> Iterator[Batch]:
        """The shards of this process; torch's generator is seeded for each."""
        for number, part in enumerate(self._divided(batch), self.rank * self.own):
            torch.default_generator.manual_seed(K.step_seeds(self.seed, number, step, 1)[0])
            # a copy, because libraries may choose other instructions for memory at an address that is not aligned
            yield Batch(*(tensor.clone() for tensor in part))

    def _divided(self, batch: Batch) -> Iterator[Batch]:
        return map(Batch._make, zip(*(tensor.chunk(self.own) for tensor in batch), strict=True))

    def gradients(
        self,
        trained: Sequence[torch.Tensor],
        batch: Batch,
        step: int,
        compute: Callable[[Batch], list[torch.Tensor]],
    ) -> list[torch.Tensor]:
        """As the means over all shards of all processes, the same in each."""
        learning = [tensor for tensor in trained if tensor.requires_grad]

        def leaf(part: Batch) -> list[torch.Tensor]:
            scalars = torch.stack([value.to(learning[0].dtype) for value in compute(part)])
            present = torch.tensor([tensor.grad is not None for tensor in learning], dtype=learning[0].dtype)
            return [torch.zeros_like(t) if t.grad is None else t.grad for t in learning] + [present, scalars]

        total = self._over_processes(added(leaf(part) for part in self.parts(batch, step)))
        torch._foreach_mul_(total, 1 / self.count)
        *gradients, present, scalars = total
        for tensor, gradient, used in zip(learning, gradients, present.tolist(), strict=True):
            tensor.grad = gradient if used else None  # optimizers skip what had a gradient in no shard
        return list(scalars.unbind())

    def _over_processes(self, own: list[torch.Tensor]) -> list[torch.Tensor]:
        """Sums over all processes, in place. own: those over the shards of this process."""
        if self.ranks == 1:
            return own
        kind = own[0].dtype
        for tensor in own:
            kind = torch.promote_types(kind, tensor.dtype)
        flat = torch.empty(sum(tensor.numel() for tensor in own), dtype=kind)
        torch._foreach_copy_(_views(flat, own), own)
        torch._foreach_copy_(own, _views(distributed.total_in_pairs(flat), own))
        return own

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        return values


def added(values: Iterable[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Sum of a power of two of lists of tensors, each of the same shapes, in pairs, then the pairs in pairs, and so on.
    Changes the lists' tensors; holds at most one list for each level of the tree."""
    waiting: list[list[torch.Tensor]] = []
    for number, value in enumerate(values):
        while number % 2:
            left = waiting.pop()
            torch._foreach_add_(left, value)
            value, number = left, number // 2
        waiting.append(value)
    (total,) = waiting
    return total


def _views(flat: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views of consecutive parts of `flat`, with the shapes and the memory formats of other tensors, which have no
    gaps: so gradients, also those in channels_last, are copied as they lie in memory."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.as_strided(tensor.shape, tensor.stride()) for part, tensor in zip(parts, like, strict=True)]


ONE_PER_PROCESS = OnePerProcess()


def refuse_for_shards(experiment: Experiment, launch: Launch, device: torch.device) -> None:
    """Raise UserError for each declared part and option whose results depend on the processes or the time."""
    if not launch.deterministic_ranks:
        return
    threads, cores = launch.threads or 1, usable_cores()
    found = {
        f"a {device.type} device adds up in an order of its own; use --device cpu": device.type != "cpu",
        f"precision {experiment.precision} is not supported; use --precision fp32": (
            experiment.precision not in ("auto", "fp32")
        ),
        # MKL takes fewer threads than it is given where there are fewer cores, so that the machine would matter
        f"{threads} threads in each process need as many cores, and there are {cores}; use --threads 1": threads
        > cores,
        "max_minutes ends training by the time; use --epochs": experiment.max_minutes,
        "sync_batch_norm computes over processes; use --model.norm group": experiment.sync_batch_norm,
        "grad_compress sends what depends on the processes; leave it out": experiment.grad_compress != "none",
        "sync_every averages the weights of processes; leave it out": experiment.sync_every > 1,
        "compiled steps are not supported; leave out --compile on": launch.compile == "on",
        "diagnose measures the share of one process; leave out --diagnose": launch.diagnose,
    }
    if wrong := [f"deterministic_ranks: {line}" for line, applies in found.items() if applies]:
        raise UserError(wrong)


def refuse_dependent(method: Method, loss: LossFunction, trained: nn.ModuleDict, batch: Batch) -> None:
    """Raise UserError if what is computed for an image depends on the other images of its batch, so that it depends on
    the number of shards beyond rounding: BatchNorm, other running statistics, methods and losses that compare images.

    Copies compute the losses of a batch twice, the second time with its first half in place of the other. batch:
    normalized and augmented, of an even number of images.
    """
    for name, module in trained.named_modules():
        if isinstance(module, BatchNorm):
            where, kind = name.removeprefix("model."), type(module).__name__
            reason = f"layer {where} ({kind}) computes statistics over a batch"
            raise UserError([f"deterministic_ranks: {reason}; use --model.norm group"])
    copies = copy.deepcopy(trained).train()
    parts: dict[str, Any] = {"method": method, "loss": loss} | dict(copies.items())
    before = {name: tensor.clone() for name, tensor in copies.named_buffers()}
    half = len(batch.keys) // 2
    twice = torch.arange(half).repeat(2)
    found = []
    with torch.no_grad(), torch.random.fork_rng([]):
        for images in (batch, Batch(*(tensor[twice] for tensor in batch))):
            torch.default_generator.manual_seed(0)  # the same dropout
            found.append(parts["method"].step(parts["model"], parts["loss"], images, Clock(0, 1, 1)).losses[:half])
    if changed := [name for name, tensor in copies.named_buffers() if not torch.equal(tensor, before[name])]:
        name = changed[0].removeprefix("model.")
        raise UserError([f"deterministic_ranks: {name} changes in training, as a statistic of the images"])
    if not torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-5, equal_nan=True):
        name = "loss" if isinstance(method, Supervised) else "method"
        raise UserError([f"deterministic_ranks: {name}: the loss of an image depends on the other images of its batch"])
