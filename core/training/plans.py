"""The plans of a run: which images form which batch in training and evaluation, and which process computes them."""

from __future__ import annotations

from core.common.ranks import Ranks
from core.context import Context
from core.experiment import Experiment
from core.launch import Launch
from core.loading.batches import Plan
from core.loading.images import Splits
from core.training.parallel import Parallel

EVALUATION_BATCH = 512
OVERFIT_STEPS = 20  # steps per epoch with --overfit: with one step, validation would take most of the time


def training_plan(experiment: Experiment, launch: Launch, splits: Splits, ranks: Ranks) -> Plan:
    """The order of the training images and their division into batches. Raises ValueError."""
    train, sampling = splits.train, experiment.sampling
    parts = launch.deterministic_ranks or ranks.ranks
    if parts % ranks.ranks:
        count = f"{parts} virtual shards cannot be divided among {ranks.ranks} processes"
        raise ValueError(f"deterministic_ranks: {count}; start {_one_of(parts)} of them")
    batch_size = experiment.batch_size if launch.overfit else _fitting(experiment, len(train), parts)
    drawn = sampling.over(train, len(splits.classes), batch_size) if sampling else None
    if not sampling and not launch.overfit:
        drawn = train.order(batch_size, parts)
    repeats, views = OVERFIT_STEPS if launch.overfit else 1, experiment.method.views
    plan = Plan(len(train), batch_size, experiment.seed, True, ranks.rank, ranks.ranks, drawn, repeats, views, parts)
    if plan.share % experiment.grad_accum_steps:
        each = "virtual shard" if launch.deterministic_ranks else "process"
        raise ValueError(
            f"grad_accum_steps: {experiment.grad_accum_steps} does not divide the {plan.share} images of each {each}"
        )
    return plan


def evaluation_plan(launch: Launch, context: Context, images: int, parallel: Parallel) -> Plan:
    """The division of a split: in order, each image once, counted in exactly one process."""
    size = launch.eval_batch_size or EVALUATION_BATCH
    if shards := launch.deterministic_ranks:
        # the outputs of an image may depend on how many are computed with it, so no batch depends on the processes
        size = max(1, min(size, -(-images // shards)))
        return Plan(images, size, shuffled=False, rank=context.rank, ranks=context.ranks, in_turn=True)
    own = parallel.shares(Ranks(context.rank, context.ranks))
    idle = context.rank > 0 and own.ranks == 1
    return Plan(
        images, size * own.ranks, shuffled=False, rank=own.rank, ranks=own.ranks, divided=parallel.divided, idle=idle
    )


def _fitting(experiment: Experiment, images: int, parts: int) -> int:
    """The declared batch size or, if there are fewer training images, the largest one that can be divided."""
    if experiment.batch_size <= images:
        return experiment.batch_size
    unit = experiment.grad_accum_steps * (2 * parts if parts > 1 else 1)
    return images // unit * unit or experiment.batch_size


def _one_of(shards: int) -> str:
    """The numbers of processes among which a power of two can be divided, in words."""
    *others, last = (str(2**power) for power in range(shards.bit_length()))
    return f"{', '.join(others)} or {last}"
