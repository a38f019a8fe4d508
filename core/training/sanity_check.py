"""Sanity check before anything is recorded: runs one small batch through copies of model, method and loss."""

from __future__ import annotations

import copy
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from core import randomness as K
from core.augment import Augment, per_image
from core.augment.albumentation import Albumentation
from core.common.errors import UserError
from core.common.terminal import tell
from core.loading.batches import Batch, Batches
from core.loading.images import Images
from core.loading.loader import Fetch, Request
from core.metrics.answers import bounded
from core.metrics.base import Metric, measured, undefined
from core.metrics.names import unmeasured
from core.schedules import Clock
from core.training.evaluate import evaluate
from core.training.state import State
from core.training.step import Setup

PROBED = 4  # images passed to each image step
PROBED_ANSWERS = 512  # images for which declared metrics are tried
START = Clock(0, 1, 1)
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)


def rehearse(steps: tuple[Augment, ...], setup: Setup, state: State, images: Images, count: int) -> tuple[str, ...]:
    """Augment `count` views of training images and compute their losses with copies of model, method and loss. Returns
    the names of the extras that the method reports.

    Raises ValueError for what breaks a contract: an image step that changes size or type, logits that are not
    [N, classes], losses that are not [N], a network that does not take the smaller images of Resize. A bug in a
    user-defined part is left to be raised, and recorded, in training.
    """
    for step in steps:
        if isinstance(step, Albumentation):
            _probe(step, images)
    index = np.arange(min(count, setup.views * len(images))) // setup.views
    keys = K.distinct(K.sample_keys(setup.seed, 0, index), index)
    fetched = Fetch(images, per_image(steps))[Request(index, keys)]
    batch = type(fetched)(*(tensor.to(setup.device) for tensor in fetched))
    try:
        ready = setup.augment(setup.normalize(batch), START)
        first = setup.augment(setup.normalize(batch), Clock(0, 1, setup.epochs))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"augment: {_first_line(error)}") from None
    copies = dict(copy.deepcopy(state.trained).train().items())
    parts: dict[str, Any] = {"loss": setup.loss, "method": setup.method} | copies
    outputs: list[object] = []
    parts["model"].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        with setup.precision(), torch.no_grad():
            output = parts["method"].step(parts["model"], parts["loss"], ready, START)
            losses, logits = output.losses, output.logits
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
        return ()
    if logits.shape != (len(index), setup.classes):
        raise ValueError(f"model: logits have shape {list(logits.shape)}; expected {[len(index), setup.classes]}")
    if losses.shape != (len(index),):
        raise ValueError(f"loss: it returns shape {list(losses.shape)}; expected one value per image, {[len(index)]}")
    if first.images.shape != ready.images.shape:
        _try_small(setup, parts, first)
    for name, value in output.extras.items():
        if not _NAME.fullmatch(name) or name in ("loss", "accuracy", "lr", "grad_norm"):
            raise ValueError(f"method: it reports {name!r}; choose another name, of letters, digits and underscores")
        if not isinstance(value, torch.Tensor) or value.shape not in ((), (len(index),)):
            raise ValueError(f"method: the extra {name} should be a tensor: a scalar, or one value for each image")
    return tuple(output.extras)


def _try_small(setup: Setup, parts: Mapping[str, Any], batch: Batch) -> None:
    """Compute the losses of a batch of the size that Resize begins with. Raises ValueError if that fails."""
    try:
        with setup.precision(), torch.no_grad():
            parts["method"].step(parts["model"], parts["loss"], batch, START)
    except Exception as error:
        height, width = batch.images.shape[2:]
        raise ValueError(
            f"augment.resize: the network takes images of one size only, or none of {height}x{width} pixels, the first "
            f"ones: {_first_line(error)}; choose a convolutional network that ends in global average pooling, raise "
            "initial_scale, or leave out Resize"
        ) from None


def augmented_few(setup: Setup, train: Batches, count: int) -> Batch:
    """The first `count` rows of a batch for training, normalized and augmented."""
    batch = next(iter(train.epoch(0)))
    return setup.augment(setup.normalize(type(batch)(*(tensor[:count] for tensor in batch))), START)


def small_step(setup: Setup, train: Batches, count: int) -> Callable[[nn.Module], None]:
    """A function that computes the gradients of `count` images through the Forward that it is given."""

    def step(forward: nn.Module) -> None:
        few = augmented_few(setup, train, count)
        with setup.precision():
            output = forward(few, START)
        output.losses.mean().backward()

    return step


def rehearse_declared(metrics: Sequence[Metric], val: Images, classes: tuple[str, ...]) -> dict[str, str]:
    """Compute the declared metrics from random answers for images of val, some of each class.

    Returns the reason for each metric that is not defined for val, by its name, and prints it. Raises UserError for a
    metric that fails.
    """
    targets = val.targets
    few = [np.arange(min(PROBED_ANSWERS, len(val)))]
    few += [targets.argmax(axis=0), targets.argmin(axis=0)] if targets.ndim == 2 else [np.unique(targets, True)[1]]
    rows = np.unique(np.concatenate(few))
    keys = K.sample_keys(0, 0, np.arange(len(rows) * len(classes)))
    logits = K.uniform(keys, "metrics").reshape(len(rows), len(classes))
    answers = bounded("val", classes, np.array([f"{row:016x}" for row in rows]), targets[rows], logits)
    absent = {}
    for metric in metrics:
        name = metric.label()
        try:
            if not measured([metric], answers):
                absent[name] = f"it is not defined: {undefined(answers)}"
                tell(f"val/{name} is not recorded: {absent[name]}")
        except UserError as error:
            raise UserError(f"metrics.{name}: {line}" for line in error.lines) from None
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.filename}, line {place.lineno}"
            raise UserError([f"metrics.{name}: {type(error).__name__}: {_first_line(error)} ({where})"]) from error
    return absent


def rehearse_metrics(
    named: Mapping[str, str], setup: Setup, state: State, val: Batches, absent: Mapping[str, str]
) -> None:
    """Raise UserError for a field that names a metric which is not measured for these data.

    named: {field: metric}.  absent: {name of a declared metric that is not defined: reason}.
    """
    if set(named.values()) <= set(setup.task.always):
        return
    declared = [f"val/{metric.label()}" for metric in setup.collector.metrics] if setup.collector else []
    if wrong := {field: metric for field, metric in named.items() if metric[4:] in absent}:
        raise UserError(f"{field}: {metric} cannot be chosen: {absent[metric[4:]]}" for field, metric in wrong.items())
    with setup.precision():
        found = evaluate(state.evaluated, setup.loss, val, setup.normalize, setup.classes, setup.task)
    known = [*(f"val/{name}" for name in found.metrics), *declared]
    for field, metric in named.items():
        if metric not in known:
            raise UserError([f"{field}: {unmeasured(metric, known)}"])


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
