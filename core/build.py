"""From a declaration to what the loop works with. The last place that sees the whole of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from core import distributed, several
from core import keys as K
from core.augment import augmented, normaliser, per_image
from core.augment.base import ImageFunction
from core.averaging import equal_average, moving_average
from core.batches import Batches, Plan, feed
from core.context import Context
from core.experiment import Experiment
from core.images import Images, Splits
from core.launch import Launch
from core.methods import Forward
from core.normalise import statistics
from core.part import Mistakes
from core.ranks import Ranks
from core.rehearsal import rehearse, rehearse_metrics, small_step
from core.state import State, Stopwatch
from core.step import Setup

INTERVALS_PER_EPOCH = 20
EVALUATION_BATCH = 512
OVERFIT_STEPS = 20  # of an epoch with --overfit: were it one, validation would take most of the time
ALONE = Ranks()


@dataclass(frozen=True)
class Assembly:
    """Everything built for one run. images: those trained on.  mean, std: per channel, of pixels in 0..1,
    with which they are normalised; empty: each image by its own.  held_out: a split -> its batches for evaluation."""

    context: Context
    setup: Setup
    state: State
    train: Batches
    val: Batches
    precision: str
    images: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    held_out: Callable[[Images], Batches]


def check(experiment: Experiment) -> None:
    """Every part's own check, before data are read. Raises Mistakes with all of them."""
    wrong = []
    for name, part in [("", experiment), *experiment.parts()]:
        try:
            part.check()
        except ValueError as error:
            wrong.append(f"{name}: {error}" if name else str(error))
    try:
        per_image(experiment.augment)
    except ValueError as error:
        wrong.append(str(error))
    if not any(line.startswith("model: ") for line in wrong):  # what it is called, its weights may be
        try:
            experiment.model.origin()
        except Mistakes as mistakes:
            wrong += mistakes.lines
    if wrong:
        raise Mistakes(wrong)


def smoked(experiment: Experiment, ranks: Ranks = ALONE) -> Experiment:
    """The same pipeline in seconds: three small batches, one epoch; more, where classes are then made rare."""
    parts = experiment.accumulate * ranks.ranks
    batch_size = parts * 2 * max(1, min(experiment.batch_size, 32) // (2 * parts))
    rarest = math.ceil(experiment.long_tail.factor) if experiment.long_tail else 1
    return experiment.but({"epochs": 1, "batch_size": batch_size, "limit": 3 * batch_size * rarest})


def device_of(launch: Launch, ranks: Ranks = ALONE) -> torch.device:
    """Raises Mistakes for a device that this machine lacks. Each process of a run takes a GPU of its own."""
    if ranks.ranks > 1 and launch.device in ("auto", "cuda") and torch.cuda.is_available():
        if ranks.local_ranks > torch.cuda.device_count():
            found = f"{ranks.local_ranks} processes, but {torch.cuda.device_count()} GPUs"
            raise Mistakes([f"device: {found}: start one process for each GPU, or use --device cpu"])
        torch.cuda.set_device(ranks.local_rank)
        return torch.device("cuda", ranks.local_rank)
    if launch.device == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    try:
        device = torch.device(launch.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise Mistakes([f"device: {launch.device} cannot be used here: {reason}"]) from None
    return device


def assemble(
    experiment: Experiment, splits: Splits, launch: Launch, device: torch.device, ranks: Ranks = ALONE
) -> Assembly:
    """Build every part. Raises Mistakes for what cannot work together."""
    try:
        return _assemble(experiment, splits, launch, device, ranks)
    except Mistakes:
        raise
    except ValueError as error:
        raise Mistakes([str(error)]) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if "memory" not in reason:
            raise
        raise Mistakes([f"{reason[:200]}; use a smaller model or batch_size, or raise accumulate"]) from None


def _assemble(experiment: Experiment, splits: Splits, launch: Launch, device: torch.device, ranks: Ranks) -> Assembly:
    image_function = per_image(experiment.augment)
    classes = len(splits.classes)
    if splits.several:
        several.refuse(experiment)
    splits = studied(experiment, splits)
    sampling = experiment.sampling
    drawn = sampling.over(splits.train, classes, experiment.batch_size) if sampling else None
    if not sampling and not launch.overfit:
        drawn = splits.train.order(experiment.batch_size, ranks.ranks)
    plan = Plan(
        len(splits.train),
        experiment.batch_size,
        experiment.seed,
        rank=ranks.rank,
        ranks=ranks.ranks,
        drawn=drawn,
        repeats=OVERFIT_STEPS if launch.overfit else 1,
    )
    if plan.share % experiment.accumulate:
        raise ValueError(f"accumulate: {experiment.accumulate} does not divide the {plan.share} images of each process")
    mean, std = statistics(experiment.normalise, splits.train)
    context = Context(
        classes=splits.classes,
        class_counts=splits.train.counts(classes),
        image_shape=splits.train.shape,
        train_size=len(splits.train),
        steps_per_epoch=len(plan),
        epochs=experiment.epochs,
        batch_size=experiment.batch_size,
        device=device,
        rank=ranks.rank,
        ranks=ranks.ranks,
        mean=mean,
        std=std,
        seed=experiment.seed,
    )
    dtype, precision = autocast_of(experiment.precision, device)
    state, loss, method = initial_state(experiment, context, scaled=dtype == torch.float16)
    setup = Setup(
        method=method,
        loss=loss,
        normalise=normaliser(mean, std, device),
        augment=partial(augmented, tuple(step.build(context) for step in experiment.augment), classes),
        schedule=experiment.schedule.build(context),
        stopping=experiment.stopping,
        classes=classes,
        epochs=experiment.epochs,
        log_every=launch.log_every or max(1, len(plan) // INTERVALS_PER_EPOCH),
        seed=experiment.seed,
        device=device,
        accumulate=experiment.accumulate,
        clip_norm=experiment.clip_norm,
        clip_value=experiment.clip_value,
        minutes=experiment.minutes,
        average_from=experiment.swa.first_epoch(experiment.epochs) if experiment.swa else None,
        autocast=dtype,
        rank=ranks.rank,
        frozen=experiment.freeze.of(state.model) if experiment.freeze else None,
        several=splits.several,
    )
    if setup.frozen:
        setup.frozen.hold(state.model, 0)  # for whoever looks at the network before it is trained
    train = _fed(launch, device, plan, splits.train, image_function)
    rehearse(experiment.augment, setup, state, splits.train, _few(plan, experiment))
    evaluated = partial(_held_out, launch, device, ranks)
    val = evaluated(splits.val)
    return Assembly(context, setup, state, train, val, precision, splits.train, mean, std, evaluated)


def studied(experiment: Experiment, splits: Splits) -> Splits:
    """The splits, classes of train made rare and its labels wrong as declared. Validation and test are left alone."""
    train, classes = splits.train, len(splits.classes)
    train = experiment.long_tail(train, classes) if experiment.long_tail else train
    train = experiment.label_noise(train, classes) if experiment.label_noise else train
    return replace(splits, train=train)


def watched(experiment: Experiment) -> dict[str, str]:
    """Field -> the validation metric that it names."""
    found = {name: getattr(part, "metric", None) for name, part in experiment.parts()}
    named = {f"{name}.metric": metric for name, metric in found.items() if isinstance(metric, str)}
    return {"select": experiment.select} | {field: m for field, m in named.items() if m.startswith("val/")}


def connect(experiment: Experiment, splits: Splits, parts: Assembly) -> None:
    """What the processes have to do together, all being ready: see what validation gives, average gradients.

    Raises Mistakes, in all of them.
    """
    state, setup, plan = parts.state, parts.setup, parts.train.plan
    rehearse_metrics(watched(experiment), setup, state, parts.held_out(splits.val.take(np.arange(1))))
    if experiment.sync_batch_norm:
        distributed.sync_norms(state.trained, setup.device)
    few = small_step(setup, parts.train, _few(plan, experiment))
    state.shared = distributed.shared(state.forward, few, setup.device) or state.shared


def _few(plan: Plan, experiment: Experiment) -> int:
    """Images enough to show whether everything fits together."""
    return min(8, plan.share // experiment.accumulate)


def _fed(
    launch: Launch, device: torch.device, plan: Plan, images: Images, image_function: ImageFunction | None = None
) -> Batches:
    """The batches of a plan as the launch says: every split is read this way."""
    return feed(plan, images, device, image_function, launch.workers, launch.resident, launch.worker_timeout)


def _held_out(launch: Launch, device: torch.device, ranks: Ranks, images: Images) -> Batches:
    """A split for evaluation: in order, every image once, each by one process."""
    size = EVALUATION_BATCH * ranks.ranks
    plan = Plan(len(images), size, shuffled=False, rank=ranks.rank, ranks=ranks.ranks)
    return _fed(launch, device, plan, images)


def initial_state(experiment: Experiment, context: Context, scaled: bool) -> tuple[State, Any, Any]:
    """(state, loss, method) with weights drawn from the seed. scaled: with fp16's gradient scaler."""
    torch.manual_seed(K.step_seeds(experiment.seed, -1, 0, 1)[0])
    built: dict[str, Any] = {"model": experiment.loss.network(experiment.model, context)}
    built |= {"loss": experiment.loss.build(context), "method": experiment.method.build(context)}
    modules = {name: part for name, part in built.items() if isinstance(part, nn.Module)}
    trained = nn.ModuleDict(modules).to(context.device).to(memory_format=torch.channels_last)
    state = State(
        trained=trained,
        forward=Forward(trained, built["method"], built["loss"]),
        optimizer=experiment.optimizer.build(trained, scaled),
        ema=moving_average(trained["model"], experiment.ema.decay) if experiment.ema else None,
        swa=equal_average(trained["model"]) if experiment.swa else None,
        stopwatch=Stopwatch() if experiment.minutes else None,
        scaler=torch.amp.GradScaler(context.device.type) if scaled else None,
        sums=torch.zeros(
            3, dtype=torch.float32 if context.device.type == "mps" else torch.float64, device=context.device
        ),
    )
    return state, built["loss"], built["method"]


def autocast_of(precision: str, device: torch.device) -> tuple[torch.dtype | None, str]:
    """(dtype of autocast or None, its name): what `precision` comes to on this device."""
    if precision == "auto":
        precision = "fp32"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision], precision
