"""Experiment: what is trained. Whatever may change a result beyond rounding stands here."""

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
    """A declared image-classification setup. Two are the same declaration when equal but for the seed."""

    data: Dataset = Field(description="images and their splits")
    model: Model = Field(description="the network")
    freeze: Freeze | None = Field(None, description="layers that stand still; none: all are trained")
    long_tail: LongTail | None = Field(None, description="make classes of the training set rare, for studies")
    label_noise: LabelNoise | None = Field(None, description="make training labels wrong, for studies")
    sampling: Sampling | None = Field(None, description="how often each image comes; none: each once an epoch")
    normalize: Normalize = Field("data", description=NORMALISE_MEANING)
    augment: tuple[Augment, ...] = Field((), description="steps applied to training images, in this order")
    loss: Loss = Field(CrossEntropy(), description="per-example loss; its mean is minimized")
    method: Method = Field(Supervised(), description="what a training step computes")
    optimizer: Optimizer = Field(description="how weights move")
    schedule: Schedule = Field(Constant(), description="learning rate over time")
    stopping: EarlyStopping | None = Field(None, description="early stopping; none trains all epochs")
    epochs: int = Field(10, ge=1, description="epochs at most")
    max_minutes: float | None = Field(
        None, gt=0, description="time to train at most, over all resumes; no epoch begins that would end later"
    )
    batch_size: int = Field(128, ge=1, description="images per optimizer step, over all ranks")
    grad_accum_steps: int = Field(1, ge=1, description="parts that a batch is computed in, to save memory")
    clip_grad_norm: float | None = Field(
        None, gt=0, description="largest norm of the gradient (Pascanu et al. 2013); none does not clip"
    )
    clip_grad_value: float | None = Field(
        None,
        gt=0,
        description="largest magnitude of an element of the gradient, after clip_grad_norm; none does not clip",
    )
    sync_batch_norm: bool = Field(False, description="BatchNorm over the images of all processes; GPUs only")
    ema: Ema | None = Field(None, description="moving average of the weights")
    swa: Swa | None = Field(None, description="equal average of the weights of the last epochs")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on a GPU that has it, else fp16 on a GPU, else fp32"
    )
    monitor: Metric = Field("val/accuracy", description="metric by which the best epoch's weights are kept")
    tta: Views = Field(
        "none", description="views of each test image whose probabilities are averaged; validation sees the image alone"
    )
    limit: int | None = Field(None, ge=1, description="at most this many images of each split, for quick studies")
    seed: int = Field(0, ge=0, lt=2**63, description="of initial weights, order, augmentation, dropout")

    def check(self) -> None:
        if self.batch_size % self.grad_accum_steps:
            raise ValueError(f"grad_accum_steps: {self.grad_accum_steps} does not divide batch_size {self.batch_size}")
        if self.ema and self.swa:
            raise ValueError("ema and swa: the weights can be averaged in one way only")
