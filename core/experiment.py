"""Experiment: what is trained. Everything that may change a result beyond rounding is declared here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.augment import Augment
from core.declare.part import Part
from core.loading.images import Dataset
from core.loading.normalize import NORMALISE_MEANING, Normalize
from core.loading.sampling import LabelNoise, LongTail, Sampling
from core.losses import CrossEntropy, Loss
from core.methods import Method, Supervised
from core.metrics.names import Metric
from core.models import Model
from core.models.freeze import Freeze
from core.models.tta import Views
from core.optimizers import Optimizer
from core.optimizers.averaging import Ema, Swa
from core.schedules import Constant, Schedule
from core.schedules.stopping import EarlyStopping


class Experiment(Part):
    """A declared image-classification setup. Two declarations are the same if they differ in their seeds alone."""

    data: Dataset = Field(description="data set: images, labels and splits")
    model: Model = Field(description="network")
    freeze: Freeze | None = Field(None, description="layers whose weights are frozen; none: all layers are trained")
    long_tail: LongTail | None = Field(
        None, description="make classes of the training set rare, to study class imbalance"
    )
    label_noise: LabelNoise | None = Field(None, description="make some training labels wrong, to study label noise")
    sampling: Sampling | None = Field(None, description="sampling of training images; none: each image once per epoch")
    normalize: Normalize = Field("data", description=NORMALISE_MEANING)
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
    batch_size: int = Field(128, ge=1, description="images per optimizer step, over all processes")
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
    ema: Ema | None = Field(None, description="exponential moving average (EMA) of the weights")
    swa: Swa | None = Field(
        None, description="stochastic weight averaging (SWA): equal average of the weights of the last epochs"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="numerical precision; auto: bf16 or, if the GPU lacks it, fp16 on a GPU, fp32 elsewhere"
    )
    monitor: Metric = Field(
        "val/accuracy",
        description="validation metric that selects the best epoch, whose weights are kept; of equal epochs, the one "
        "with the smaller val/loss, then the later one",
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

    def check(self) -> None:
        if self.batch_size % self.grad_accum_steps:
            raise ValueError(f"grad_accum_steps: {self.grad_accum_steps} does not divide batch_size {self.batch_size}")
        if self.ema and self.swa:
            raise ValueError("ema and swa: the weights can be averaged in one way only")
