"""--batch_size auto: the largest batch that fits on a GPU, found by trial with the real step."""

from __future__ import annotations

from contextlib import suppress

import torch

from core.common.device import device_of
from core.common.errors import UserError
from core.common.memory import is_out_of_memory, release
from core.common.terminal import tell
from core.experiment import Experiment
from core.launch import Launch
from core.loading.batches import Batch
from core.loading.images import Splits
from core.schedules import Clock
from core.tracking.api import NoMirror
from core.training.assemble import Assembly, assemble, check, load_splits
from core.training.runtime import open_runtime
from core.training.step import StepSkipped, advance, set_learning_rates

TRIED = 2  # steps with each size: the optimizer allocates its state in the first one
SMALLEST, SAMPLED = 2, 64  # images in the smallest batch that is tried; images that are read


def largest_batch(experiment: Experiment, launch: Launch) -> int:
    """The largest power of two of images per optimizer step for which `launch.device`, a GPU, has memory.

    All other fields are as declared; the declared batch_size is not used. Raises UserError, also for other devices and
    for several processes.
    """
    with open_runtime(launch, NoMirror()) as runtime:
        if runtime.ranks.ranks > 1:
            raise UserError(["--batch_size auto: only in a single process; find the number there, and declare it"])
        if launch.smoke or launch.overfit:
            raise UserError(["--batch_size auto: --smoke and --overfit choose the batch size; leave it out"])
        device = device_of(launch.device)
        if device.type != "cuda":
            where = f"the device is {device.type}, where memory is not what limits a batch"
            raise UserError([f"--batch_size auto: only for GPUs: {where}; choose a number"])
        check(experiment.but({"batch_size": experiment.grad_accum_steps}))
        found, reason = fitting(experiment, load_splits(experiment, launch), launch)
        release()
        torch.cuda.reset_peak_memory_stats(device)  # the peak memory of a run is its own
    tell(f"--batch_size auto: {found} ({reason}); the learning rate is as declared")
    return found


def fitting(experiment: Experiment, splits: Splits, launch: Launch) -> tuple[int, str]:
    """(the largest power of two that fits, why no larger one was chosen). Raises UserError if none does."""
    steps, images = experiment.grad_accum_steps, len(splits.train)
    sizes = [2**n for n in range(1, images.bit_length()) if 2**n % steps == 0 and 2**n >= SMALLEST * steps]
    if not sizes:
        advice = f"grad_accum_steps {steps} divides no power of two of up to {images:,} training images"
        raise UserError([f"--batch_size auto: {advice}; declare a number"])
    first = min(sizes[-1], max(SAMPLED, sizes[0]))
    # loader workers take no memory of the GPU, but resident images do
    small = launch.but({"workers": 0, "resident": False if launch.workers else launch.resident, "compile": "off"})
    parts = assemble(experiment.but({"batch_size": first}), splits, small)
    batch = next(iter(parts.train.epoch(0)))
    for number, size in enumerate(sizes):
        if not _fits(parts, of_size(batch, size * parts.setup.views)):
            if not number:
                raise UserError([f"--batch_size auto: not even {size} images fit; choose a smaller model or images"])
            return sizes[number - 1], f"{size} do not fit"
    return sizes[-1], f"there are {images:,} training images"


def of_size(batch: Batch, size: int) -> Batch:
    """The rows of a batch, repeated or cut to `size`."""
    times = -(-size // len(batch.keys))
    return Batch(*(tensor.repeat(times, *[1] * (tensor.dim() - 1))[:size] for tensor in batch))


def _fits(parts: Assembly, batch: Batch) -> bool:
    """Whether training steps with this batch fit into memory without more micro-batches than declared.

    The steps are those of the last epoch, in which no layer is frozen any longer; the learning rate is 0.
    """
    setup, state, per_epoch = parts.setup, parts.state, parts.context.steps_per_epoch
    clock = Clock(per_epoch * setup.epochs - 1, per_epoch, setup.epochs)
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    state.trained.train()
    frozen = setup.frozen.hold(state.model, setup.epochs - 1) if setup.frozen else []
    set_learning_rates(state.optimizer, 0.0)
    try:
        for _ in range(TRIED):
            with suppress(StepSkipped):  # whether the loss is finite is of no matter here
                advance(setup, state, trained, setup.augment(setup.normalize(batch), clock), clock, frozen)
        if state.sums.device.type == "cuda":
            torch.cuda.synchronize(state.sums.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    else:
        fits = state.split == 1
    release()
    return fits
