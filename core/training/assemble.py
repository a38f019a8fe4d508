"""Builds everything that the training loop needs from a declaration. No module below this one sees the declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

from core import randomness as K
from core.augment import augmented, per_image
from core.common.device import device_of
from core.common.errors import DataError, UserError
from core.common.half import in_half
from core.common.precision import HALVES, autocast_of, refuse_half
from core.common.ranks import ALONE, Ranks
from core.context import Context
from core.experiment import Experiment
from core.inference.network import Network
from core.launch import Launch
from core.loading.batches import Batches, ImageFunction, Plan
from core.loading.images import Images, Splits
from core.loading.loader import feed
from core.loading.normalize import normalizer, sample, statistics
from core.methods import Compiled, Forward
from core.metrics.task import Task, task_of
from core.models import forward_flops
from core.models.precision import is_faster_in_bf16
from core.models.structured import prune_channels
from core.optimizers.averaging import MovingAverage, equal_average
from core.record.run import RecordedRun
from core.training import distributed
from core.training.collect import Collector
from core.training.compiled import choice, translation
from core.training.divided import divided
from core.training.exchange import Exchange, arrange
from core.training.parallel import Parallel, refuse_division
from core.training.plans import evaluation_plan, training_plan
from core.training.pruning import pruned
from core.training.sanity_check import augmented_few, rehearse, rehearse_declared, rehearse_metrics, small_step
from core.training.shards import Shards, refuse_dependent, refuse_for_shards
from core.training.state import State, Stopwatch
from core.training.step import Setup

INTERVALS_PER_EPOCH = 20


@dataclass(frozen=True)
class Assembly:
    """A declaration, its launch options, its images and everything built from them.

    experiment: as trained, after `declared` has reduced it for --smoke or --overfit.  splits: as trained on, with long
    tail and label noise applied to train.  compiled: whether steps are compiled, see core/training/compiled.py.
    flops: counts the FLOPs of the forward pass of one image, once.
    mean, std: per channel, of pixels in 0..1, used to normalize images; without mean, each image is normalized by its
    own statistics.  parameters: number of parameters of the whole network.
    """

    experiment: Experiment
    launch: Launch
    splits: Splits
    context: Context
    setup: Setup
    state: State
    train: Batches
    val: Batches
    precision: str
    compiled: str
    flops: Callable[[], int | None]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    parameters: int

    @property
    def images(self) -> Images:
        """The training images."""
        return self.splits.train

    @property
    def network(self) -> Network:
        """The evaluated network, for inference with the declared test-time augmentation and precision."""
        setup = self.setup
        model = self.state.evaluated.eval()
        return Network(model, setup.normalize, setup.device, setup.autocast, self.experiment.tta, setup.task)

    def held_out(self, images: Images) -> Batches:
        """The batches of a split for evaluation."""
        return _held_out(self.launch, self.setup.device, self.context, images, self.state.parallel)


def check(experiment: Experiment) -> None:
    """Run the check of every part, before data are read. Raises UserError with all errors found."""
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
    if not any(line.startswith("model: ") for line in wrong):  # otherwise the names of its weights may be wrong too
        try:
            experiment.model.origin()
        except UserError as mistakes:
            wrong += mistakes.lines
    if wrong:
        raise UserError(wrong)


def assemble(
    experiment: Experiment, splits: Splits, launch: Launch, ranks: Ranks = ALONE, like: RecordedRun | None = None
) -> Assembly:
    """Build every part on the device of the launch options. like: see `prepare`. Raises UserError for parts that do not
    fit together."""
    try:
        return _assemble(experiment, splits, launch, ranks, like)
    except UserError:
        raise
    except ValueError as error:
        raise UserError([str(error)]) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if "memory" not in reason:
            raise
        raise UserError([f"{reason[:200]}; use a smaller model or batch_size, or raise grad_accum_steps"]) from None


def _assemble(
    experiment: Experiment, splits: Splits, launch: Launch, ranks: Ranks, like: RecordedRun | None
) -> Assembly:
    device = device_of(launch.device, ranks)
    classes, metrics = len(splits.classes), experiment.metrics
    task = task_of(splits.multi_label, splits.tasks)
    refuse(experiment, task)
    splits = studied(experiment, splits)
    parallel = divided(launch, ranks)
    plan = training_plan(experiment, launch, splits, parallel.shares(ranks))
    mean, std = statistics(experiment.normalize, splits.train)
    context = Context(
        classes=splits.classes,
        class_counts=splits.train.counts(classes),
        image_shape=splits.train.shape,
        train_size=len(splits.train),
        steps_per_epoch=len(plan),
        epochs=experiment.epochs,
        batch_size=plan.size,
        device=device,
        rank=ranks.rank,
        ranks=ranks.ranks,
        mean=mean,
        std=std,
        seed=experiment.seed,
        directions=experiment.directions,
        sample=partial(sample, splits.train, mean, std),
        tasks=splits.tasks,
    )
    chosen = _precision(experiment, launch, like)
    refuse_half(chosen, device)
    dtype, precision = autocast_of(chosen, device)
    compiled = choice(experiment, launch, device, ranks, len(plan) * experiment.epochs, repeated=like is not None)
    state, loss, method = initial_state(experiment, context, dtype == torch.float16, translation(compiled), parallel)
    flops = cache(partial(forward_flops, state.model, context.image_shape))
    forward = plan.share // experiment.grad_accum_steps
    if (chosen, device.type) == ("auto", "cpu") and is_faster_in_bf16(state.model, context.image_shape, forward, flops):
        dtype, precision = autocast_of("bf16", device)
    setup = Setup(
        method=method,
        loss=loss,
        normalize=normalizer(mean, std, device),
        augment=partial(augmented, tuple(step.build(context) for step in experiment.augment), classes),
        schedule=experiment.schedule.build(context),
        stopping=experiment.stopping.build(context) if experiment.stopping else None,
        task=task,
        classes=classes,
        epochs=experiment.epochs,
        log_every=launch.log_every or max(1, len(plan) // INTERVALS_PER_EPOCH),
        seed=experiment.seed,
        device=device,
        grad_accum_steps=experiment.grad_accum_steps,
        clip_grad_norm=experiment.clip_grad_norm,
        clip_grad_value=experiment.clip_grad_value,
        max_minutes=experiment.max_minutes,
        average_from=experiment.swa.first_epoch(experiment.epochs) if experiment.swa else None,
        autocast=dtype,
        fixed_scale=experiment.loss_scale.init_scale if experiment.loss_scale.fixed else None,
        rank=ranks.rank,
        frozen=held.of(state.model) if (held := experiment.lora or experiment.freeze) else None,
        collector=Collector("val", splits.classes, metrics, splits.tasks) if metrics else None,
        pruning=pruned(experiment.prune, state.model),
        views=plan.views,
    )
    if setup.frozen:
        setup.frozen.hold(state.model, 0)  # for code that inspects the network before training
    train = _fed(launch, device, plan, splits.train, per_image(experiment.augment))
    extras = rehearse(experiment.augment, setup, state, splits.train, _few(plan, experiment))
    setup = _sharded(replace(setup, extras=extras), launch, ranks)
    state.make_room(len(extras))
    parameters = sum(p.numel() for p in state.model.parameters())
    val = _held_out(launch, device, context, splits.val, parallel)
    return Assembly(
        experiment, launch, splits, context, setup, state, train, val, precision, compiled, flops, mean, std, parameters
    )


def _precision(experiment: Experiment, launch: Launch, like: RecordedRun | None) -> str:
    """The precision as declared; "auto" leaves it to the hardware and the network."""
    if experiment.quantize or launch.deterministic_ranks:
        return "fp32"
    return like.precision if like else experiment.precision


def _sharded(setup: Setup, launch: Launch, ranks: Ranks) -> Setup:
    """The setup with batches in virtual shards, if the launch options have them."""
    if not launch.deterministic_ranks:
        return setup
    shards = Shards(launch.deterministic_ranks, ranks.rank, ranks.ranks, setup.seed)
    return replace(setup, shards=shards, augment=shards.augmented(setup.augment), rank=0)


def studied(experiment: Experiment, splits: Splits) -> Splits:
    """Apply the declared long tail and label noise to the training split. Validation and test splits are unchanged."""
    train, classes = splits.train, len(splits.classes)
    train = experiment.long_tail(train, classes) if experiment.long_tail else train
    train = experiment.label_noise(train, classes) if experiment.label_noise else train
    return replace(splits, train=train)


def connect(parts: Assembly) -> None:
    """Collective setup, once every process is ready: synchronize BatchNorm, divide the network or the batches among the
    processes, check the validation metrics. Raises UserError in all processes.
    """
    experiment, state, setup, plan = parts.experiment, parts.state, parts.setup, parts.train.plan
    if experiment.sync_batch_norm:
        distributed.sync_norms(state.trained, setup.device)
    if parts.launch.deterministic_ranks:
        own = setup.method, setup.loss, state.trained, augmented_few(setup, parts.train, 4 * plan.views)
        distributed.together(lambda: refuse_dependent(*own))
    else:
        state.parallel.connect(parts, small_step(setup, parts.train, _few(plan, experiment)))
        arrange(state, Exchange(experiment.grad_compress, experiment.sync_every, len(plan), experiment.epochs))
    refuse_unmeasured(parts, experiment.monitored)


def refuse_unmeasured(parts: Assembly, named: Mapping[str, str]) -> None:
    """Raise UserError for a field that names a validation metric which is not measured for these data, and for a
    declared metric that fails. named: {field: metric}."""
    val, metrics = parts.splits.val, parts.experiment.metrics
    absent = rehearse_declared(metrics, val, parts.splits.classes) if metrics else {}
    rehearse_metrics(named, parts.setup, parts.state, parts.held_out(val.take(np.arange(1))), absent)


def _few(plan: Plan, experiment: Experiment) -> int:
    """Number of rows in the small batch that checks whether everything fits together."""
    return plan.views * min(8, plan.share // experiment.grad_accum_steps)


def _fed(
    launch: Launch, device: torch.device, plan: Plan, images: Images, image_function: ImageFunction | None = None
) -> Batches:
    """The batches of a plan, loaded according to the launch options."""
    how = (launch.workers, launch.resident, launch.worker_timeout, launch.prefetch)
    return feed(plan, images, device, image_function, *how)


def _held_out(launch: Launch, device: torch.device, context: Context, images: Images, parallel: Parallel) -> Batches:
    """Batches of a split for evaluation: in order, each image once, counted in exactly one process."""
    return _fed(launch, device, evaluation_plan(launch, context, len(images), parallel), images)


def initial_state(
    experiment: Experiment, context: Context, scaled: bool, compiled: Compiled, parallel: Parallel
) -> tuple[State, Any, Any]:
    """Build (state, loss, method) with weights initialized from the seed, each of them whole. scaled: use a gradient
    scaler, for fp16.  compiled: translates the step."""
    torch.manual_seed(K.step_seeds(experiment.seed, -1, 0, 1)[0])
    built: dict[str, Any] = {"model": compressed(experiment, whole(experiment, context), context)}
    built["loss"] = experiment.loss.build(context)
    built["method"] = experiment.method.build(replace(context, network=built["model"]))
    if experiment.precision in HALVES:
        in_half(built["model"], HALVES[experiment.precision])
    modules = {name: part for name, part in built.items() if isinstance(part, nn.Module)}
    trained = nn.ModuleDict(modules).to(parallel.place(context.device)).to(memory_format=torch.channels_last)
    state = State(
        trained=trained,
        forward=Forward(trained, built["method"], built["loss"], compiled),
        optimizer=experiment.optimizer.for_batches_of(context.batch_size).build(trained, scaled),
        parallel=parallel,
        ema=MovingAverage(trained["model"], experiment.ema) if experiment.ema else None,
        swa=equal_average(trained["model"]) if experiment.swa else None,
        stopwatch=Stopwatch() if experiment.max_minutes else None,
        scaler=experiment.loss_scale.scaler(context.device) if scaled else None,
        sums=torch.zeros(
            3, dtype=torch.float32 if context.device.type == "mps" else torch.float64, device=context.device
        ),
    )
    return state, built["loss"], built["method"]


def whole(experiment: Experiment, context: Context) -> nn.Module:
    """The network as declared by the model and the loss, before it is compressed."""
    return experiment.loss.network(experiment.model, context)


def compressed(experiment: Experiment, network: nn.Module, context: Context) -> nn.Module:
    """The network with channels removed, layers that round, and matrices of LoRA, as far as declared."""
    if experiment.prune and experiment.prune.how == "structured":
        network = prune_channels(network, experiment.prune, context.image_shape)
    network = experiment.quantize.prepare(network) if experiment.quantize else network
    return experiment.lora.prepare(network) if experiment.lora else network


def belongs(parts: Assembly) -> dict[str, str]:
    """The environment that determines whether a resumed run is bit-exact: torch version, device, precision, compiled or
    not, threads, processes and CPU capability."""
    shards = parts.launch.deterministic_ranks
    return {
        "torch": torch.__version__,
        "device": parts.setup.device.type,
        "precision": parts.precision,
        "compiled": parts.compiled,
        "threads": str(torch.get_num_threads()),
        "processes": f"up to {shards}" if shards else str(parts.context.ranks),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
    }


def prepare(experiment: Experiment, launch: Launch, ranks: Ranks = ALONE, like: RecordedRun | None = None) -> Assembly:
    """Check and build everything; no process continues before all have succeeded.

    like: an earlier run that is repeated, with its order of classes and, where the declaration leaves it to the
    hardware, its precision. Raises UserError, including DataError.
    """
    parts = distributed.together(lambda: _prepared(experiment, launch, ranks, like))
    connect(parts)
    return parts


def _prepared(experiment: Experiment, launch: Launch, ranks: Ranks, like: RecordedRun | None) -> Assembly:
    """Cheap checks first; no communication between processes."""
    check(experiment)
    refuse_for_shards(experiment, launch, device_of(launch.device, ranks))  # raises before images are read
    refuse_division(experiment, launch, ranks)
    classes = like.record["data"]["classes"] if like else None
    return assemble(experiment, load_splits(experiment, launch, classes), launch, ranks, like)


def load_splits(experiment: Experiment, launch: Launch, classes: Sequence[str] | None = None) -> Splits:
    """Load the images that a declaration trains on.

    classes: the order of the classes in the record of a run, which its weights and weights of classes belong to; None:
    that of the data. Raises DataError.
    """
    splits = _varied(experiment, launch) if experiment.vary else experiment.data.load(launch.root)
    splits = splits.ordered(classes) if classes else splits
    if experiment.limit:
        splits = _limited(experiment, launch, splits)
    return experiment.fold(splits) if experiment.fold else splits


def _varied(experiment: Experiment, launch: Launch) -> Splits:
    """The splits with the val split of the seed. Raises DataError if the val split is the same for each seed."""
    seeds = experiment.seed, experiment.seed + 1
    own, other = (experiment.data.but({"split_seed": seed}).load(launch.root) for seed in seeds)
    if np.array_equal(own.val.rows, other.val.rows):
        raise DataError([f"vary: the val split of {own.name} is fixed by its files, whatever the seed; leave it out"])
    return own


def _limited(experiment: Experiment, launch: Launch, splits: Splits) -> Splits:
    assert experiment.limit
    count, reduced = len(splits.classes), launch.smoke or launch.overfit
    if experiment.limit < count and not splits.multi_label and not reduced:
        advice = f"use --limit {count} or more, or fewer classes with --data.only where the data have it"
        raise DataError([f"limit: {experiment.limit} images are fewer than the {count:,} classes; {advice}"])
    return splits.limited(experiment.limit)


def refuse(experiment: Experiment, task: Task) -> None:
    """Raise UserError naming every declared part that does not support the targets of this task."""
    asked = [(name, part, task.inside(name)) for name, part in experiment.parts()]
    if wrong := [f"{name}: {needed.refusal(part)}" for name, part, needed in asked if not needed.takes(part)]:
        raise UserError(wrong)
