"""Stack: the networks of several runs as one, whose forward and backward pass, and optimizer step, are those of all."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.func import functional_call, vmap
from torch.nn.utils import clip_grad_value_

from core.context import Clock
from core.loading.batches import Batch
from core.losses import Loss
from core.methods import Forward
from core.optimizers import Descent
from core.training.assemble import Assembly
from core.training.draws import OwnDropout
from core.training.state import OWN
from core.training.step import set_learning_rates

STEP = "step"  # the one value in the state of torch's optimizers that is a number, not a tensor like the parameter


@contextmanager
def stacked(members: Sequence[Assembly]) -> Iterator[Stack]:
    """Stack the networks of members that are at the same step of declarations that share the same `structure` (see
    core/training/fleet.py).

    Within the context, every tensor that a step changes (parameters, buffers, optimizer state, sums) is a row of a
    tensor of all members, so that the state of each member is complete after every step. Afterwards, members are
    independent of each other again.
    """
    stack = Stack(members)
    try:
        yield stack
    finally:
        stack.release()


class Stack:
    """M networks as one. Tensors are [M, ...].

    optimizer: one for all members, which does to row m what it would do alone, because it is elementwise; None if the
    members differ in optimizer, schedule, or learning rate, so that each updates its own row.
    numbers: those in which the losses of the members differ, by the name of their field, float64 [M] each.
    """

    def __init__(self, members: Sequence[Assembly]):
        self.members = members
        self.setup, self.states = members[0].setup, [parts.state for parts in members]
        self._alone: list[tuple[torch.Tensor, torch.Tensor]] = []  # (tensor of a member, its own memory)
        forwards = [state.forward for state in self.states]
        self.parameters = self._joined([dict(forward.named_parameters()) for forward in forwards])
        self.buffers = self._joined([dict(forward.named_buffers()) for forward in forwards])
        self.sums = torch.stack([state.sums for state in self.states])
        for state, row in zip(self.states, self.sums, strict=True):
            state.sums = row
        self._owners = self._by_parameter()
        self.optimizer = self._optimizer() if self._are_alike() else None
        self.numbers = self._numbers()
        self.trained = [p for p in self.parameters.values() if p.requires_grad]

    def _joined(self, members: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        joint = {}
        for name, first in members[0].items():
            own = [tensors[name] for tensors in members]
            joint[name] = torch.stack([tensor.detach() for tensor in own])
            for tensor, row in zip(own, joint[name], strict=True):
                self._alone.append((tensor, tensor.data))
                tensor.data = row
            joint[name].requires_grad_(first.requires_grad)
        return joint

    def _by_parameter(self) -> list[tuple[torch.Tensor, tuple[torch.nn.Parameter, ...]]]:
        """(stacked parameter, those of the members), for each parameter."""
        each = [state.forward.parameters() for state in self.states]
        return list(zip(self.parameters.values(), zip(*each, strict=True), strict=True))

    def _are_alike(self) -> bool:
        """Whether all members declare the same optimizer and schedule."""
        first, *others = (parts.experiment for parts in self.members)
        return all((one.optimizer, one.schedule) == (first.optimizer, first.schedule) for one in others)

    def _numbers(self) -> dict[str, torch.Tensor]:
        losses = [parts.experiment.loss.flat() for parts in self.members]
        differ = [name for name, value in losses[0].items() if any(other[name] != value for other in losses)]
        return {
            name: torch.tensor([loss[name] for loss in losses], dtype=torch.float64, device=self.setup.device)
            for name in differ
        }

    def _optimizer(self) -> torch.optim.Optimizer:
        """The declared optimizer over the stacked parameters, in the state of those of the members."""
        own = [state.optimizer for state in self.states]
        joint = {owners[0]: parameter for parameter, owners in self._owners}
        groups = [{**g, "params": [joint[p] for p in g["params"]]} for g in own[0].param_groups]
        declared = self.members[0].experiment.optimizer
        assert isinstance(declared, Descent)
        optimizer = declared.over(groups)
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        self._owners = [pair for pair in self._owners if id(pair[0]) in trained]
        for parameter, owners in self._owners:
            each = [one.state[p] for one, p in zip(own, owners, strict=True)]
            for name, value in each[0].items():
                value = value.clone() if name == STEP else torch.stack([state[name] for state in each])
                optimizer.state[parameter][name] = value
        self._share(optimizer)
        return optimizer

    def _share(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the state of each member's optimizer a row of that of all."""
        self._shared = len(optimizer.state)
        for parameter, owners in self._owners:
            values = optimizer.state.get(parameter, {})
            for place, (state, own) in enumerate(zip(self.states, owners, strict=True)):
                rows = {name: value if name == STEP else value[place] for name, value in values.items()}
                state.optimizer.state[own].update(rows)

    def release(self) -> None:
        """Give each member its own tensors again."""
        for tensor, alone in self._alone:
            alone.copy_(tensor.data)
            tensor.data = alone
        for state in self.states:
            state.sums = state.sums.clone()
            for values in state.optimizer.state.values():
                values.update({name: value.clone() for name, value in values.items()})

    def advance(self, batches: Sequence[Batch], clock: Clock, seeds: Sequence[int]) -> list[int]:
        """Take one step of every member, as core/training/step.py does, and return the places of those whose loss or
        gradient is not finite; their weights are unchanged. To know them, the host waits for the device.

        batches: normalized and augmented, one for each member.  seeds: of the noise of this step.
        """
        loss, right, *extras = self.gradients(batches, clock, seeds)
        norm = self.gradient_norm()
        with torch.no_grad():
            if self.setup.clip_grad_norm:  # as clip_grads_with_norm_, for each row
                factor = (self.setup.clip_grad_norm / (norm + 1e-6)).clamp(max=1.0)
                for gradient in self._gradients():
                    gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))
            if self.setup.clip_grad_value:
                clip_grad_value_(self.trained, self.setup.clip_grad_value)
            self.sums += torch.stack([loss, right, norm, *extras], dim=1)
            broken = [place for place, sums in enumerate(self.sums[:, :OWN].tolist()) if not math.isfinite(sum(sums))]
            if self.optimizer:
                self._update(self.optimizer, broken)
            else:
                self._update_each(broken)
        for state in self.states:
            if state.ema is not None:
                state.ema.update_parameters(state.model)
        return broken

    def set_learning_rates(self, multipliers: Sequence[float]) -> None:
        """Set the learning rates of each member to the initial ones times its multiplier. If a schedule gives members
        different ones, by their validation, each is updated by its own optimizer from then on."""
        if self.optimizer and len(set(multipliers)) > 1:
            self._separate()
        if self.optimizer:
            set_learning_rates(self.optimizer, multipliers[0])
        for state, multiplier in zip(self.states, multipliers, strict=True):
            set_learning_rates(state.optimizer, multiplier)

    def _separate(self) -> None:
        """Update each member by its own optimizer, whose tensors remain rows; its number of steps was shared."""
        self.optimizer = None
        for state in self.states:
            for values in state.optimizer.state.values():
                if STEP in values:
                    values[STEP] = values[STEP].clone()

    def _update(self, optimizer: torch.optim.Optimizer, broken: Sequence[int]) -> None:
        """One step of all members, without those at the places `broken`."""
        before = [(parameter, place, parameter[place].clone()) for parameter in self.trained for place in broken]
        optimizer.step()
        for parameter, place, row in before:
            parameter[place] = row
        if len(optimizer.state) != self._shared:  # some are created by the first step
            self._share(optimizer)

    def _update_each(self, broken: Sequence[int]) -> None:
        """One step of each member by its own optimizer, without those at the places `broken`."""
        for place, state in enumerate(self.states):
            if place not in broken:
                for parameter, owners in self._owners:
                    owners[place].grad = None if parameter.grad is None else parameter.grad[place]
                state.optimizer.step()

    def gradients(self, batches: Sequence[Batch], clock: Clock, seeds: Sequence[int]) -> list[torch.Tensor]:
        """Compute the gradient of the mean loss of each member. Returns [mean losses, correct predictions, means of
        each extra], [M] each."""

        def one(parameters: Any, buffers: Any, batch: Batch, numbers: dict[str, torch.Tensor]) -> Any:
            output = functional_call(self._forward(numbers), (parameters, buffers), (batch, clock))
            right = self.setup.task.right(output.logits.detach(), batch.targets)
            return output.losses, right, *output.reported(self.setup.extras)

        for parameter in self.trained:
            parameter.grad = None
        joint, count = [torch.stack(tensors) for tensors in zip(*batches, strict=True)], self.setup.grad_accum_steps
        found = []
        noise = OwnDropout(seeds, self.setup.device)
        for micro_batch in zip(*(tensor.chunk(count, dim=1) for tensor in joint), strict=True):
            with self.setup.precision(), noise, warnings.catch_warnings():
                warnings.filterwarnings("ignore", "There is a performance drop")  # vmap falls back to a loop over rows
                losses, right, *extras = vmap(one, randomness="error")(
                    self.parameters, self.buffers, Batch(*micro_batch), self.numbers
                )
            weights = torch.full_like(losses, 1 / (losses.shape[1] * count))
            losses.backward(weights)
            means = [(values * weights).sum(dim=1) for values in (losses.detach(), *extras)]
            found.append([means[0], right, *means[1:]])
        return [torch.stack(each).sum(dim=0) for each in zip(*found, strict=True)]

    def _forward(self, numbers: dict[str, torch.Tensor]) -> Forward:
        """What computes the losses of a member. numbers: of its loss, where it differs from that of the first one."""
        first, loss = self.states[0], self.setup.loss
        if not numbers or not isinstance(loss, Loss):
            return first.forward
        return Forward(first.trained, self.setup.method, loss.model_copy(update=numbers))

    def gradient_norm(self) -> torch.Tensor:
        """The 2-norm of the gradient of each member, [M]."""
        norms = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in self._gradients()]
        norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        return norm

    def _gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.trained if p.grad is not None]
