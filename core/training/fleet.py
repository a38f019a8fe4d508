"""fit_together(): the training loop of several runs in one process, forward and backward pass of all at once: seeds of
one declaration, or trials of a study that differ in numbers alone."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch.func import functional_call, vmap

from core import randomness as K
from core.common.errors import NonFinite, UserError
from core.common.memory import is_out_of_memory
from core.context import Clock
from core.experiment import Experiment
from core.loading.batches import Batch
from core.loading.loader import Host, Resident
from core.methods import Supervised
from core.optimizers import SGD, Adam, RMSprop
from core.training.assemble import Assembly
from core.training.compiled import NO
from core.training.draws import OwnDropout
from core.training.loop import Event, end_of_epoch, read_interval
from core.training.nonfinite import diagnose
from core.training.sanity_check import START
from core.training.stack import stacked
from core.training.step import gradient_norm, gradients, is_over, reseed

Round = dict[int, Event | NonFinite]
MAY_DIFFER = ("seed", "optimizer", "schedule", "stopping", "ema")
ELEMENTWISE = (SGD, Adam, RMSprop)  # optimizers of which each weight is updated by its own gradient alone
TRIED = 8  # images for which both ways are compared
ALIKE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # relative tolerance of what differs by rounding only
PAYS_FLOPS = 250_000  # of the forward pass of one image, on a CPU; measured with tests/benchmarks/fleet.py


def fit_together(members: Mapping[int, Assembly], ended: Collection[int] = ()) -> Generator[Round]:
    """Train every member as `fit` would alone, until all are over. Yields, for each step and for each end of an epoch,
    {number of a member: its event, or the error that ends its training}.

    members: of declarations with the same `structure`. They need not be at the same step: those behind are trained
    first. One that is over, by early stopping or by an error, is left as it is while the others continue. Between two
    rounds every state is consistent: it may be saved, and training may be resumed from it, together or alone.
    ended: numbers of members that are not trained any further; read at the end of each epoch.
    """
    live = dict(members)
    for parts in live.values():
        parts.state.trained.train()
    while live := {
        number: parts
        for number, parts in live.items()
        if number not in ended and not is_over(parts.setup, parts.state.history)
    }:
        here = min(map(_place, live.values()))
        group = {number: parts for number, parts in live.items() if _place(parts) == here}
        ahead = [parts.state.step for parts in live.values() if _place(parts) > here]
        for events in _through_epoch(group, ahead):
            for number in [number for number, event in events.items() if isinstance(event, NonFinite)]:
                del live[number]
            yield events


def _place(parts: Assembly) -> tuple[int, int]:
    return parts.state.step, len(parts.state.history)


def _through_epoch(group: Mapping[int, Assembly], ahead: Sequence[int]) -> Iterator[Round]:
    """Train members at the same step to the end of the epoch, or to the first of the steps `ahead`, or until one of
    them fails."""
    members = list(group.values())
    first, epoch = _place(members[0])
    steps = len(members[0].train.plan)
    end = min([(epoch + 1) * steps, *ahead])
    for parts in members:
        if parts.setup.frozen:
            parts.setup.frozen.hold(parts.state.model, epoch)
    began = time.perf_counter()
    with stacked(members) as stack:
        batches = zip(*(parts.train.epoch(epoch, first - epoch * steps) for parts in members), strict=True)
        noise = zip(*(K.step_seeds(p.setup.seed, p.setup.rank, first, end - first) for p in members), strict=True)
        for seeds, raw in zip(noise, batches, strict=False):
            clock = Clock(members[0].state.step, steps, members[0].setup.epochs)
            stack.set_learning_rates([parts.setup.schedule(clock, parts.state.history) for parts in members])
            broken = stack.advance(_ready(members, raw, clock), clock, seeds)
            events: Round = {}
            for place, (number, parts) in enumerate(group.items()):
                parts.state.step += 1
                events[number] = _failed(parts) if place in broken else _step_event(parts, epoch)
            yield events
            if broken:
                return
    if end == (epoch + 1) * steps:
        pace = (end - first) / (time.perf_counter() - began)
        yield {n: end_of_epoch(p.setup, p.state, p.train, p.val, pace) for n, p in group.items()}


def _ready(members: Sequence[Assembly], raw: Sequence[Batch], clock: Clock) -> list[Batch]:
    """The batches of members, normalized, which is the same function for all, and augmented by each."""
    joint = members[0].setup.normalize(Batch(*map(torch.cat, zip(*raw, strict=True))))
    each = zip(*(tensor.chunk(len(members)) for tensor in joint), strict=True)
    return [parts.setup.augment(Batch(*own), clock) for parts, own in zip(members, each, strict=True)]


def _step_event(parts: Assembly, epoch: int) -> Event:
    """The event after a step of one member, as in `fit`."""
    setup, state = parts.setup, parts.state
    done = state.step - epoch * len(parts.train.plan)
    due = done % setup.log_every == 0 or done == len(parts.train.plan)
    metrics = read_interval(setup, state, parts.train, (done - 1) % setup.log_every + 1) if due else {}
    return Event(state.step, epoch, metrics)


def _failed(parts: Assembly) -> NonFinite:
    return diagnose(parts.setup, parts.state, parts.train, parts.state.step - 1, parts.state.step)


def structure(experiment: Experiment) -> tuple[tuple[str, str], ...]:
    """What the declarations of runs that are trained together share, as (dotted name, value).

    They may differ in seed, optimizer, schedule, early stopping, the decay of a moving average, and numbers (float) of
    the augmentation and of the loss.
    """
    flat = experiment.flat().items()
    found = [(name, str(value)) for name, value in flat if not may_differ(name, isinstance(value, float))]
    return (*found, ("seed", str(experiment.seed))) if experiment.vary else tuple(found)  # it draws the images


def may_differ(name: str, number: bool) -> bool:
    """Whether runs that are trained together may have different values at a dotted name. number: whether these are
    numbers (float). Of the loss, they can be those of its own fields; those of a loss inside of it, and the sizes of
    images, have to be the same."""
    kind, *below = name.split(".")
    varied = (kind == "loss" and len(below) == 1) or (kind == "augment" and below[:1] != ["resize"])
    return kind in MAY_DIFFER or (number and varied)


def sharing(parts: Assembly, first: Assembly) -> Assembly:
    """`parts` with the images of `first` instead of a copy on the device. Both have the same `structure`."""
    if not isinstance(first.train, Resident):
        return parts
    return replace(parts, train=replace(first.train, plan=parts.train.plan), val=first.val)


def refuse_together(members: Sequence[Assembly], option: str = "--together") -> None:
    """Raise UserError for each part that cannot be trained together. members: two of them or more, ready to train.
    option: the one to leave out.

    What the declaration does not show is tried: the losses and gradients of a few images have to be those of each
    member alone.
    """
    wrong = list(dict.fromkeys(line for parts in members for line in _declared(parts))) or _tried(members)
    if wrong:
        raise UserError(f"{line}; leave out {option}" for line in wrong)


def _declared(parts: Assembly) -> list[str]:
    experiment, launch = parts.experiment, parts.launch
    looking = [name for name in ("profile", "diagnose", "detect_anomaly") if getattr(launch, name)]
    optimizer = type(experiment.optimizer).__name__
    found = {
        f"optimizer: {optimizer} does not update each weight by its own gradient alone": not isinstance(
            experiment.optimizer, ELEMENTWISE
        ),
        "precision: the gradient scaler of fp16 has one scale, and each run needs its own": parts.state.scaler,
        "prune: each run would have other weights or channels": experiment.prune,
        "quantize: rounding follows the activations of one network": experiment.quantize,
        "compile: a compiled step is that of one network": parts.compiled != NO,
        "max_minutes: the time of one run alone is not known": experiment.max_minutes,
        "together: one run in several processes is not stacked": parts.context.ranks > 1,
        "deterministic_ranks: all runs are computed at once, not by virtual shards": parts.launch.deterministic_ranks,
        "workers: each run would have loader processes of its own, unless --workers 0 is given": (
            isinstance(parts.train, Host) and parts.train.loader
        ),
        f"device: {parts.setup.device.type} is not supported": parts.setup.device.type not in ("cpu", "cuda"),
    } | {f"{name}: it looks at the layers of one network": True for name in looking}
    return [line for line, applies in found.items() if applies]


def _tried(members: Sequence[Assembly]) -> list[str]:
    """What is wrong with a step of copies of the members, together and each alone."""
    setup = replace(members[0].setup, grad_accum_steps=1)
    single, joint = ([replace(one, state=copy.deepcopy(one.state)) for one in members] for _ in range(2))
    for one in (*single, *joint):
        one.state.trained.train()
    ready, seeds, alone = [], [], []
    for one in single:
        batch = next(iter(one.train.epoch(0)))
        few = type(batch)(*(tensor[: min(TRIED, len(tensor) // one.setup.grad_accum_steps)] for tensor in batch))
        ready.append(one.setup.augment(one.setup.normalize(few), START))
        seeds.append(K.step_seeds(one.setup.seed, 0, 0, 1)[0])
        reseed(seeds[-1], setup.device)
        loss, *_ = gradients(setup, one.state, one.state.forward, ready[-1], START)
        norm = gradient_norm(p.grad for p in one.state.trained.parameters() if p.grad is not None)
        alone.append(_flat(loss, norm, one))
    try:
        with stacked(joint) as stack:
            stack.setup = setup
            losses, *_ = stack.gradients(ready, START, seeds)
            norms = stack.gradient_norm()
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:150]
        if is_out_of_memory(error):
            return [f"out of memory: {reason}"]
        return [f"{_cause(joint[0], ready[0].images)}: torch.vmap does not support it ({reason})"]
    within = ALIKE[setup.autocast or torch.float32]
    for loss, norm, one, expected in zip(losses, norms, joint, alone, strict=True):
        if not torch.allclose(_flat(loss, norm, one), expected, rtol=within, atol=within, equal_nan=True):
            return ["model, loss or method: together, runs do not compute what each computes alone"]
    return []


def _flat(loss: torch.Tensor, norm: torch.Tensor, parts: Assembly) -> torch.Tensor:
    """What has to be the same together and alone: loss, norm of the gradient, and buffers after the step, [n]."""
    tensors = (loss, norm, *parts.state.forward.buffers())
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def _cause(parts: Assembly, images: torch.Tensor) -> str:
    """The part that does not run under vmap. images: of a batch."""
    network = parts.state.model
    tensors = {name: tensor[None] for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    try:
        with OwnDropout([0], parts.setup.device):
            vmap(lambda own, x: functional_call(network, own, (x,)), randomness="error")(tensors, images[None])
    except RuntimeError:
        return "model"
    return "loss" if type(parts.experiment.method) is Supervised else "loss or method"


def advice(parts: Assembly, option: str = "--together") -> Iterator[str]:
    """Yield what to tell a user of this option whose network is too large to gain from it."""
    flops = parts.flops() or 0
    if parts.setup.device.type == "cpu" and flops > PAYS_FLOPS:
        yield (
            f"{option}: on a CPU it pays for networks of up to about {PAYS_FLOPS:,} FLOPs per image; this one has "
            f"{flops:,}, and one run after the other is as fast or faster"
        )
