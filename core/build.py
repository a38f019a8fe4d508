"""From a declaration to what the loop works with. The last place that sees the whole of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from core import keys as K
from core.augment import augmented, normaliser, per_image
from core.batches import Batches, Plan, feed
from core.context import Context
from core.experiment import Experiment
from core.images import Images, Splits, mean_and_std
from core.launch import Launch
from core.part import Mistakes
from core.rehearsal import rehearse
from core.state import State, moving_average
from core.step import Setup

INTERVALS_PER_EPOCH = 20
EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Assembly:
    """Everything built for one run. mean, std: per channel of the training images, scaled to 0..1."""

    context: Context
    setup: Setup
    state: State
    train: Batches
    val: Batches
    precision: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


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
    if wrong:
        raise Mistakes(wrong)


def smoked(experiment: Experiment) -> Experiment:
    """The same pipeline in seconds: three small batches, one epoch."""
    batch_size = experiment.accumulate * max(2, min(experiment.batch_size, 32) // experiment.accumulate)
    return experiment.but({"epochs": 1, "batch_size": batch_size, "limit": 3 * batch_size})


def device_of(launch: Launch) -> torch.device:
    """Raises Mistakes for a device that this machine lacks."""
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


def assemble(experiment: Experiment, splits: Splits, launch: Launch, device: torch.device) -> Assembly:
    """Build every part. Raises Mistakes for what cannot work together."""
    try:
        return _assemble(experiment, splits, launch, device)
    except Mistakes:
        raise
    except ValueError as error:
        raise Mistakes([str(error)]) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if "memory" not in reason:
            raise
        raise Mistakes([f"{reason[:200]}; use a smaller model or batch_size, or raise accumulate"]) from None


def _assemble(experiment: Experiment, splits: Splits, launch: Launch, device: torch.device) -> Assembly:
    image_function = per_image(experiment.augment)
    classes = len(splits.classes)
    plan = Plan(len(splits.train), experiment.batch_size, experiment.seed)
    context = Context(
        classes=splits.classes,
        class_counts=splits.train.counts(classes),
        image_shape=splits.train.shape,
        train_size=len(splits.train),
        steps_per_epoch=len(plan),
        epochs=experiment.epochs,
        batch_size=experiment.batch_size,
        device=device,
        seed=experiment.seed,
    )
    dtype, precision = autocast_of(experiment.precision, device)
    state, loss, method = initial_state(experiment, context, scaled=dtype == torch.float16)
    mean, std = mean_and_std(splits.train)
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
        autocast=dtype,
    )
    train = feed(plan, splits.train, device, image_function, launch.workers, launch.resident)
    rehearse(experiment.augment, setup, state, splits.train, min(8, experiment.batch_size // experiment.accumulate))
    return Assembly(context, setup, state, train, held_out(splits.val, device), precision, mean, std)


def held_out(images: Images, device: torch.device) -> Batches:
    """A split for evaluation: in order, every image once."""
    return feed(Plan(len(images), EVALUATION_BATCH, shuffled=False), images, device)


def initial_state(experiment: Experiment, context: Context, scaled: bool) -> tuple[State, Any, Any]:
    """(state, loss, method) with weights drawn from the seed. scaled: with fp16's gradient scaler."""
    torch.manual_seed(K.step_seeds(experiment.seed, -1, 0, 1)[0])
    built: dict[str, Any] = {"model": experiment.model.build(context)}
    built |= {"loss": experiment.loss.build(context), "method": experiment.method.build(context)}
    modules = {name: part for name, part in built.items() if isinstance(part, nn.Module)}
    trained = nn.ModuleDict(modules).to(context.device).to(memory_format=torch.channels_last)
    state = State(
        trained=trained,
        optimizer=experiment.optimizer.build(trained),
        ema=moving_average(trained["model"], experiment.ema.decay) if experiment.ema else None,
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
