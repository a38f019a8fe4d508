"""Experiment: what is trained. Everything that may change a result beyond rounding is declared here."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, Self, get_args

import torch
from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from core.augment import Augment
from core.common.errors import UserError
from core.common.precision import HALVES
from core.common.text import did_you_mean
from core.context import Context
from core.declare.part import Part
from core.inference import combined  # noqa: F401 its models become known
from core.loading.folds import Fold
from core.loading.images import Dataset
from core.loading.normalize import NORMALISE_MEANING, Normalize
from core.loading.sampling import LabelNoise, LongTail, Sampling
from core.losses import CrossEntropy, Loss, TaskLosses
from core.methods import Method, Supervised
from core.metrics import Metric
from core.metrics.names import MONITORED, History, MetricName, Monitor, best_epoch, of_tasks
from core.models import Model
from core.models.freeze import Freeze
from core.models.lora import Lora
from core.models.pretrained import Origin
from core.models.prune import Prune
from core.models.quantize import Quantize
from core.models.tta import Views
from core.optimizers import Optimizer
from core.optimizers.averaging import Ema, Swa
from core.optimizers.loss_scale import LossScale
from core.schedules import Constant, Schedule
from core.schedules.stopping import EarlyStopping

NO_LORA = {
    "freeze": "lora fixes the weights itself, all but those of the head and of lora.train",
    "prune": "what lora adds would fill the weights that are pruned",
    "quantize": "layers that round to int8 train their weights, which lora fixes",
}


class Experiment(Part):
    """A declared image-classification setup. Two declarations are the same if they differ in their seeds alone."""

    data: Dataset = Field(description="data set: images, labels and splits")
    fold: Fold | None = Field(
        None, description="fold of a cross-validation that is the val split; none: the val split of the data"
    )
    model: Model = Field(description="network")
    freeze: Freeze | None = Field(None, description="layers whose weights are frozen; none: all layers are trained")
    lora: Lora | None = Field(
        None, description="low-rank adaptation (LoRA) of the layers; none: the weights themselves are trained"
    )
    prune: Prune | None = Field(None, description="pruning of weights or channels; none: the network is left whole")
    quantize: Quantize | None = Field(
        None, description="quantization-aware training for int8 engines; none: weights and activations are not rounded"
    )
    long_tail: LongTail | None = Field(
        None, description="make classes of the training set rare, to study class imbalance"
    )
    label_noise: LabelNoise | None = Field(None, description="make some training labels wrong, to study label noise")
    sampling: Sampling | None = Field(None, description="sampling of training images; none: each image once per epoch")
    normalize: Normalize = Field("data", description=NORMALISE_MEANING)
    match_weights: bool = Field(
        False,
        description="prepare images as the pretrained weights expect: their size, crop, interpolation, mean and "
        "deviation take the place of those of data and normalize",
    )
    augment: tuple[Augment, ...] = Field((), description="augmentations of the training images, applied in this order")
    loss: Loss = Field(CrossEntropy(), description="loss function; the mean over the batch is minimized")
    method: Method = Field(Supervised(), description="training method: what a step computes from a batch")
    optimizer: Optimizer = Field(description="optimizer")
    schedule: Schedule = Field(Constant(), description="learning-rate schedule")
    stopping: EarlyStopping | None = Field(None, description="early stopping; none: all epochs are trained")
    epochs: int = Field(10, ge=1, description="maximum number of epochs")
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="maximum training time in minutes, over all resumes; an epoch that would exceed it is not started",
    )
    batch_size: int = Field(
        128,
        ge=1,
        description="images per optimizer step, over all processes; --batch_size auto: as many as fit on the GPU",
    )
    grad_accum_steps: int = Field(
        1, ge=1, description="gradient accumulation: micro-batches per optimizer step; saves memory"
    )
    clip_grad_norm: float | None = Field(
        None, gt=0, description="clip the gradient to this norm (Pascanu et al. 2013); none: no clipping"
    )
    clip_grad_value: float | None = Field(
        None,
        gt=0,
        description="clip each element of the gradient to this magnitude, after clip_grad_norm; none: no clipping",
    )
    sync_batch_norm: bool = Field(False, description="synchronize BatchNorm over all processes; GPUs only")
    grad_compress: Literal["none", "bf16", "powersgd"] = Field(
        "none",
        description="compression of the gradients that processes exchange; bf16: half of the bytes; powersgd: low-rank "
        "factors with error feedback (Vogels et al. 2019); no effect with one process",
    )
    sync_every: int = Field(
        1,
        ge=1,
        description="local SGD (Lin et al. 2020): processes average their weights after this many steps; 1: they "
        "average gradients at every step; no effect with one process",
    )
    ema: Ema | None = Field(None, description="exponential moving average (EMA) of the weights")
    swa: Swa | None = Field(
        None, description="stochastic weight averaging (SWA): equal average of the weights of the last epochs"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "bf16-true", "fp16-true"] = Field(
        "auto",
        description="numerical precision; auto: bf16 or, if the GPU lacks it, fp16 on a GPU; bf16 on a CPU with "
        "instructions for it, if the network gains from them; fp32 elsewhere; bf16 and fp16: autocast of the forward "
        "pass, with weights in fp32; bf16-true and fp16-true: the weights themselves and the optimizer's state",
    )
    loss_scale: LossScale = Field(LossScale(), description="scale of the loss under fp16; unused otherwise")
    metrics: tuple[Metric, ...] = Field(
        (), description="further metrics, computed from the answers for val after each epoch and for test at the end"
    )
    monitor: Monitor = Field(
        "val/accuracy",
        description="validation metric that selects the best epoch, whose weights are kept; of equal epochs, the one "
        f"with the smaller val/loss, then the later one: {MONITORED}",
    )
    tta: Views = Field(
        "none", description="test-time augmentation: views of each test image whose probabilities are averaged"
    )
    limit: int | None = Field(
        None, ge=1, description="maximum number of images per split, at least one of each class; none: all images"
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="seed of the run: initial weights, order of images, augmentation, dropout"
    )
    vary: Literal["split"] | None = Field(
        None,
        description="what the seed also draws; split: the val split, in place of data.split_seed; none: nothing else",
    )

    @property
    def directions(self) -> dict[str, int]:
        """{val/NAME: 1 if larger values are better, -1 if smaller ones are} of the declared metrics, if it is known,
        and of those of several tasks."""
        found = {f"val/{metric.label()}": metric.direction() for metric in self.metrics}
        found |= {f"val/{name}": better for name, better in of_tasks(self.data.task_names).items()}
        return {name: better for name, better in found.items() if better is not None}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Validation metrics that can be monitored: of every run, of each of several tasks, and the declared ones."""
        each = of_tasks(self.data.task_names)
        return (*get_args(MetricName), *(f"val/{name}" for name in (*each, *(one.label() for one in self.metrics))))

    @property
    def pretrained(self) -> dict[str, Origin]:
        """{dotted name: pretrained weights} of the networks within the method, such as a teacher."""
        found = {name: part.origin() for name, part in self.method.parts() if isinstance(part, Model)}
        return {f"method.{name}": origin for name, origin in found.items() if origin}

    @property
    def monitored(self) -> dict[str, str]:
        """{field: validation metric} of all parts that monitor one."""
        found = {f"{name}.monitor": getattr(part, "monitor", None) for name, part in self.parts()}
        named = {field: name for field, name in found.items() if isinstance(name, str) and name.startswith("val/")}
        return {"monitor": self.monitor} | named

    def best_epoch(self, history: History) -> int:
        """Index of the best epoch of a history by `monitor`; see core.metrics.names.best_epoch."""
        return best_epoch(history, self.monitor, self.directions.get(self.monitor))

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        """Refuse metrics of one name, and monitored metrics that no run measures and `metrics` does not add."""
        own = [f"val/{metric.label()}" for metric in self.metrics]
        measured = get_args(MetricName)
        wrong = [("metrics", f"two of them are named {name[4:]}") for name in dict.fromkeys(own) if own.count(name) > 1]
        wrong += [("metrics", f"{name[4:]} is measured in every run; leave it out") for name in own if name in measured]
        known = self.metric_names
        choices = f"choose one of {', '.join(known)}, or add it to metrics"
        wrong += [
            (field, f"{name} is not measured; {choices}{did_you_mean(name, known)}")
            for field, name in self.monitored.items()
            if name not in known
        ]
        if wrong:
            raise ValidationError.from_exception_data("Experiment", [_detail(field, text) for field, text in wrong])
        return self

    def check(self) -> None:
        if self.batch_size % self.grad_accum_steps:
            raise ValueError(f"grad_accum_steps: {self.grad_accum_steps} does not divide batch_size {self.batch_size}")
        if self.vary and self.fold:
            raise ValueError("vary and fold: the fold is the val split; remove one of them")
        if (tasks := self.data.task_names) and isinstance(self.loss, TaskLosses):
            self.loss.by_task(tasks)
        if self.ema and self.swa:
            raise ValueError("ema and swa: the weights can be averaged in one way only")
        named = {f"val/{metric.label()}": metric for metric in self.metrics}
        for field, name in self.monitored.items():
            with suppress(UserError):  # which its own check raises, too
                if name in named and named[name].direction() is None:
                    raise ValueError(f"{field}: {name}: it is not known whether larger or smaller values are better")
        if self.sync_every > 1 and self.grad_compress != "none":
            raise ValueError("grad_compress and sync_every: weights are exchanged, not gradients; remove one of them")
        if self.sync_every > 1 and self.ema:
            raise ValueError("ema and sync_every: between two averages, each process has weights of its own; use swa")
        if self.prune and self.freeze:
            raise ValueError("prune and freeze: pruning changes the layers that freeze keeps; remove one of them")
        if self.lora and (other := next((name for name in ("freeze", "prune", "quantize") if getattr(self, name)), "")):
            raise ValueError(f"lora and {other}: {NO_LORA[other]}; remove one of them")
        if self.freeze and (left := [one for one in self.freeze.stages if one not in self.freeze.begun(self.epochs)]):
            raise ValueError(f"freeze.stages: {left[0]} never begins, because epochs is {self.epochs}")
        if self.freeze and self.freeze.stages:
            self._check_stages(self.freeze)
        if self.prune and self.prune.complete_epoch >= self.epochs:
            raise ValueError(
                f"prune: it is complete after {self.prune.complete_epoch} epochs, and epochs is {self.epochs}; leave "
                "at least one epoch for the pruned network"
            )
        if self.precision in HALVES and self.model.fp32:
            raise ValueError(f"model.fp32 and precision {self.precision}: all weights are in half precision; use bf16")
        if self.quantize and self.precision not in ("auto", "fp32"):
            raise ValueError(f"quantize and precision {self.precision}: rounding to int8 is done in fp32; use fp32")

    def _check_stages(self, freeze: Freeze) -> None:
        """Raise ValueError for a stage that names no module of the network, as it is for made-up images and classes."""
        context = Context(("0", "1"), (1, 1), (224, 224, 3), 2, 1, self.epochs, 2, torch.device("meta"))
        try:
            with torch.device("meta"):
                network = self.loss.network(self.model.model_copy(update={"weights": None}), context)
        except Exception:  # a network that needs the data: it is looked at once they are read
            return
        freeze.refuse_unknown(network)


def _detail(field: str, text: str) -> InitErrorDetails:
    return InitErrorDetails(
        type=PydanticCustomError("class", "{text}", {"text": text}), loc=tuple(field.split(".")), input=None
    )
