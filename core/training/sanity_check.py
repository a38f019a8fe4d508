"""Sanity check before anything is recorded: runs one small batch through copies of model, method and loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from core import randomness as K
from core.augment import Augment, per_image
from core.augment.albumentation import Albumentation
from core.common.errors import UserError
from core.loading.batches import Batches
from core.loading.images import Images
from core.loading.loader import Fetch, Request
from core.metrics.names import unmeasured
from core.schedules import Clock
from core.training.evaluate import evaluate
from core.training.state import State
from core.training.step import Setup

PROBED = 4  # images passed to each image step
START = Clock(0, 1, 1)


def rehearse(steps: tuple[Augment, ...], setup: Setup, state: State, images: Images, count: int) -> None:
    """Augment `count` training images and compute their losses with copies of model, method and loss.

    Raises ValueError for what breaks a contract: an image step that changes size or type, logits that are not
    [N, classes], losses that are not [N]. A bug in a user-defined part is left to be raised, and recorded, in training.
    """
    for step in steps:
        if isinstance(step, Albumentation):
            _probe(step, images)
    index = np.arange(min(count, len(images)))
    fetched = Fetch(images, per_image(steps))[Request(index, K.sample_keys(setup.seed, 0, index))]
    batch = type(fetched)(*(tensor.to(setup.device) for tensor in fetched))
    try:
        ready = setup.augment(setup.normalize(batch), START)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"augment: {_first_line(error)}") from None
    copies = dict(copy.deepcopy(state.trained).train().items())
    parts: dict[str, Any] = {"loss": setup.loss, "method": setup.method} | copies
    outputs: list[object] = []
    parts["model"].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with setup.precision(), torch.no_grad():
            losses, logits = parts["method"].step(parts["model"], parts["loss"], ready, START)
    except UserError:
        raise
    except Exception as error:
        if any(isinstance(output, tuple) for output in outputs):
            raise ValueError(
                "model: it returns several outputs in training; use method Auxiliary, or --model.aux_logits false"
            ) from None
        if "more than 1 value per channel" in str(error):
            raise ValueError(
                f"model: BatchNorm needs more than {len(index)} image per micro-batch; raise batch_size or lower "
                "grad_accum_steps"
            ) from None
        return
    if logits.shape != (len(index), setup.classes):
        raise ValueError(f"model: logits have shape {list(logits.shape)}; expected {[len(index), setup.classes]}")
    if losses.shape != (len(index),):
        raise ValueError(f"loss: it returns shape {list(losses.shape)}; expected one value per image, {[len(index)]}")


def small_step(setup: Setup, train: Batches, count: int) -> Callable[[nn.Module], None]:
    """A function that computes the gradients of `count` images through the Forward that it is given."""

    def step(forward: nn.Module) -> None:
        batch = next(iter(train.epoch(0)))
        few = type(batch)(*(tensor[:count] for tensor in batch))
        with setup.precision():
            losses, _ = forward(setup.augment(setup.normalize(few), START), START)
        losses.mean().backward()

    return step


def rehearse_metrics(named: dict[str, str], setup: Setup, state: State, val: Batches) -> None:
    """Raise UserError for a field that names a metric which is not measured for these data. named: {field: metric}."""
    if set(named.values()) <= set(setup.task.always):
        return
    with setup.precision():
        found = evaluate(state.evaluated, setup.loss, val, setup.normalize, setup.classes, setup.task)
    measured = [f"val/{name}" for name in found.metrics]
    for field, metric in named.items():
        if metric not in measured:
            raise UserError([f"{field}: {unmeasured(metric, measured)}"])


def _probe(step: Albumentation, images: Images) -> None:
    """Run an image step on a few images with probability 1. Raises ValueError if it fails."""
    try:
        certain = step.model_copy(update={"arguments": step.arguments | {"p": 1.0}})
        probe = per_image((certain,))
        assert probe is not None
        for position, key in enumerate(K.sample_keys(0, 0, np.arange(PROBED)).tolist()):
            probe(images.pixels[int(images.rows[position % len(images)])].copy(), key)
    except Exception as error:
        raise ValueError(f"augment.{step.label()}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].removeprefix("augment: ")[:300]
