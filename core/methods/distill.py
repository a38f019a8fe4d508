"""Knowledge distillation from networks of recorded runs, or from a pretrained network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import nn

from core.common.errors import UserError
from core.common.tensors import full
from core.common.terminal import tell
from core.common.text import few
from core.context import Context
from core.inference.network import model_of
from core.loading.batches import Batch
from core.loading.normalize import NORMALISE_MEANING, Normalize, known_statistics
from core.methods.base import LossFunction, Method, Output
from core.models import Model
from core.models.pretrained import read
from core.models.transfer import adapt
from core.record.named import id_of_latest
from core.record.run import WEIGHTS, RecordedRun
from core.schedules import Clock

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of each channel; empty: of each image


class Distill(Method):
    """Knowledge distillation (Hinton et al. 2015, section 2): (1 - alpha) loss + alpha T^2 KL(teacher || student).

    Both distributions are softened by the temperature T. A teacher is the best network of a finished run, or a
    pretrained network whose outputs are the classes of the data, in their order; of several, it is the mean of the
    softened probabilities, as of an ensemble in the paper. Teachers receive the augmented images of the student,
    normalized as in their own training. Their weights are not trained and not part of the training state or its
    checkpoints, and are read again after a resume. The two terms are recorded as train/label_loss and
    train/distillation_loss, without the factors 1 - alpha and alpha.
    """

    teacher: str | None = Field(
        None,
        description="finished run of the teacher: its id, a unique prefix of the id, its folder, or latest; several "
        "with commas between them; none: pretrained alone",
    )
    pretrained: Model | None = Field(
        None, description="network that teaches with its `weights`, of torchvision by name or from a file; none: runs"
    )
    normalize: Normalize = Field("imagenet", description=f"for the pretrained teacher: {NORMALISE_MEANING}")
    temperature: float = Field(
        4.0, gt=0, description="temperature T that divides the logits; larger values give softer distributions"
    )
    alpha: float = Field(
        0.9, ge=0, le=1, description="weight of the distillation term; the loss of the targets has weight 1 - alpha"
    )

    @field_validator("teacher")
    @classmethod
    def _named_by_id(cls, teacher: str | None) -> str | None:
        """With ids in place of `latest`, which may be another run tomorrow. What is not found stays, for `check`."""
        return None if teacher is None else ",".join(id_of_latest(name.strip()) for name in teacher.split(","))

    @property
    def runs(self) -> list[str]:
        """The runs that are teachers."""
        return [] if self.teacher is None else self.teacher.split(",")

    def check(self) -> None:
        if not self.runs and self.pretrained is None:
            raise ValueError("teacher: name a finished run, or a pretrained network with --method.pretrained")
        for name in self.runs:
            try:
                run = RecordedRun.load(name)
            except UserError as mistakes:
                raise ValueError(f"teacher: {mistakes}") from None
            if run.status != "FINISHED":
                raise ValueError(f"teacher: run {run.id} is {run.status}; the teacher must be a finished run")
            if not (run.folder / "artifacts" / WEIGHTS).exists():
                raise ValueError(f"teacher: run {run.id} has no saved weights ({WEIGHTS})")
        if self.pretrained:
            if self.pretrained.weights is None:
                raise ValueError("pretrained: without weights, it has nothing to teach; set pretrained.weights")
            try:
                self.pretrained.origin()
            except UserError as mistakes:
                raise ValueError(str(mistakes).replace("model.weights", "pretrained.weights")) from None

    def build(self, context: Context) -> Any:
        """The method with its teachers loaded.

        Raises ValueError if the classes, the image shape or the normalization of a teacher do not fit.
        """
        self.check()
        teachers = [_of_run(RecordedRun.load(name), context) for name in self.runs]
        if self.pretrained:
            own = (context.mean, context.std)
            wanted = own if self.normalize == "data" else known_statistics(self.normalize, context.image_shape[2])
            teachers.append(_teacher(_pretrained(self.pretrained, context), wanted, context))
        return _Distilled(self, tuple(teachers))

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        raise TypeError("Distill has not loaded its teacher; call step of the object that build(context) returns")

    def output(self, losses: torch.Tensor, logits: torch.Tensor, *teachers: torch.Tensor) -> Output:
        """The combined losses [N], given the losses [N] and logits [N, C] of the student, and the logits of each
        teacher."""
        own = (full(logits) / self.temperature).log_softmax(dim=1)
        each = [(full(teacher) / self.temperature).log_softmax(dim=1) for teacher in teachers]
        mean = each[0] if len(each) == 1 else torch.stack(each).logsumexp(dim=0) - math.log(len(each))
        soft = F.kl_div(own, mean, reduction="none", log_target=True).sum(dim=1)
        mixed = (1 - self.alpha) * losses + self.alpha * self.temperature**2 * soft
        return Output(mixed, logits, {"label_loss": losses, "distillation_loss": self.temperature**2 * soft})


@dataclass(frozen=True, eq=False)
class _Teacher:
    """A network, and (scale, shift), float [C, 1, 1] each, from the normalization of the student to its own; None if
    they are the same."""

    network: nn.Module
    renormalize: tuple[torch.Tensor, torch.Tensor] | None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        if self.renormalize:
            images = images * self.renormalize[0] + self.renormalize[1]
        logits: torch.Tensor = self.network(images)
        return logits


@dataclass(frozen=True, eq=False)
class _Distilled:
    """Distill with its teachers. Not an nn.Module, so that they are not among the modules of the training state."""

    declared: Distill
    teachers: tuple[_Teacher, ...]

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        with torch.no_grad():
            taught = [teacher(batch.images) for teacher in self.teachers]
        logits = model(batch.images)
        return self.declared.output(loss(logits, batch.targets), logits, *taught)

    def __deepcopy__(self, memo: Any) -> _Distilled:
        return self  # it is immutable: copies can share one teacher


def _teacher(network: nn.Module, normalize: Statistics, context: Context) -> _Teacher:
    ready = network.eval().requires_grad_(False).to(context.device).to(memory_format=torch.channels_last)
    return _Teacher(ready, _renormalization(normalize, context))


def _of_run(run: RecordedRun, context: Context) -> _Teacher:
    _fits(run, context)
    data = run.record["data"]
    return _teacher(model_of(run), (tuple(data["mean"]), tuple(data["std"])), context)


def _pretrained(declared: Model, context: Context) -> nn.Module:
    """The network with its weights, all of them. Raises ValueError for a head of other classes."""
    origin = declared.origin()
    assert origin
    network = declared.network(context)
    weights, note = read(origin.path)
    # names of classes need not be those of the data, as those of the folders of ImageNet are not; their number counts
    adapted = adapt(network, weights, len(context.classes), True, f"method.pretrained.weights: {origin.name}")
    if adapted.replaced:
        raise ValueError(
            f"method.pretrained: the head of {origin.name} is not for the {len(context.classes)} classes of the data "
            f"({few(adapted.replaced)}); fine-tune it on them, and name that run as teacher"
        )
    called = ""
    if origin.classes and origin.classes != context.classes:
        if sorted(origin.classes) == sorted(context.classes):
            raise ValueError(f"method.pretrained: {origin.name} has the same classes in a different order")
        called = f"; it calls the classes {few(origin.classes, 3)}"
    if not context.rank:
        tell(f"teacher {origin.name}: {adapted.summary()}{f'; {note}' if note else ''}{called}")
    return network


def _fits(run: RecordedRun, context: Context) -> None:
    data = run.record["data"]
    classes, shape = tuple(data["classes"]), tuple(data["image_shape"])
    if classes != context.classes:
        if sorted(classes) == sorted(context.classes):
            raise ValueError(
                f"method.teacher: run {run.id} was trained on the same classes in a different order; train it again "
                "on these data"
            )
        only = sorted(set(classes) ^ set(context.classes))[:5]
        counts = f"{len(classes)} classes, the data have {len(context.classes)}; not in both: {', '.join(only)}"
        raise ValueError(f"method.teacher: run {run.id} was trained on {counts}")
    if shape != context.image_shape:
        there, here = ("x".join(map(str, sides)) for sides in (shape, context.image_shape))
        raise ValueError(f"method.teacher: run {run.id} was trained on images of shape {there}, the data have {here}")


def _renormalization(normalize: Statistics, context: Context) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(scale, shift) from the normalization of `context` to that of the teacher; None if the two are the same."""
    if normalize == (context.mean, context.std):
        return None
    if not normalize[0] or not context.mean:
        raise ValueError(
            "method.teacher: teacher and student must use the same normalize if one of them uses that of each image"
        )
    known = (*normalize, context.mean, context.std)
    mean, std, own_mean, own_std = (torch.tensor(v, device=context.device)[:, None, None] for v in known)
    return own_std / std, (own_mean - mean) / std
