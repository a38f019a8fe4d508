"""Knowledge distillation from the network of a recorded run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from core.common.errors import UserError
from core.common.tensors import full
from core.context import Context
from core.inference.network import model_of
from core.loading.batches import Batch
from core.methods.base import LossFunction, Method, Output
from core.record.run import WEIGHTS, RecordedRun
from core.schedules import Clock


class Distill(Method):
    """Knowledge distillation (Hinton et al. 2015, section 2): (1 - alpha) loss + alpha T^2 KL(teacher || student).

    Both distributions are softened by the temperature T. The teacher is the best network of a finished run. It receives
    the augmented images of the student, normalized as in its own training. Its weights are read from that run's record:
    they are not trained and not part of the training state or its checkpoints, and are read again after a resume.
    """

    teacher: str = Field(description="finished run of the teacher: its id, a unique prefix of the id, or its folder")
    temperature: float = Field(
        4.0, gt=0, description="temperature T that divides the logits; larger values give softer distributions"
    )
    alpha: float = Field(
        0.9, ge=0, le=1, description="weight of the distillation term; the loss of the targets has weight 1 - alpha"
    )

    def check(self) -> None:
        try:
            run = RecordedRun.load(self.teacher)
        except UserError as mistakes:
            raise ValueError(f"teacher: {mistakes}") from None
        if run.status != "FINISHED":
            raise ValueError(f"teacher: run {run.id} is {run.status}; the teacher must be a finished run")
        if not (run.folder / "artifacts" / WEIGHTS).exists():
            raise ValueError(f"teacher: run {run.id} has no saved weights ({WEIGHTS})")

    def build(self, context: Context) -> Any:
        """The method with its teacher loaded.

        Raises ValueError if the classes, the image shape or the normalization of the teacher do not fit.
        """
        self.check()
        run = RecordedRun.load(self.teacher)
        _fits(run, context)
        teacher = model_of(run).requires_grad_(False).to(context.device).to(memory_format=torch.channels_last)
        return _Distilled(self, teacher, _renormalization(run.record["data"], context))

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        raise TypeError("Distill has not loaded its teacher; call step of the object that build(context) returns")

    def mixed(self, losses: torch.Tensor, logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Combined losses [N], given the losses [N] and the logits [N, C] of student and teacher."""
        soft = F.kl_div(
            (full(logits) / self.temperature).log_softmax(dim=1),
            (full(teacher) / self.temperature).log_softmax(dim=1),
            reduction="none",
            log_target=True,
        ).sum(dim=1)
        return (1 - self.alpha) * losses + self.alpha * self.temperature**2 * soft


@dataclass(frozen=True, eq=False)
class _Distilled:
    """Distill with its teacher. Not an nn.Module, so that the teacher is not among the modules of the training state.

    renormalize: (scale, shift), float [C, 1, 1] each, from the student's normalization to the teacher's; None if they
    are the same.
    """

    declared: Distill
    teacher: nn.Module
    renormalize: tuple[torch.Tensor, torch.Tensor] | None

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        with torch.no_grad():
            images = batch.images
            if self.renormalize:
                images = images * self.renormalize[0] + self.renormalize[1]
            teacher_logits = self.teacher(images)
        logits = model(batch.images)
        return Output(self.declared.mixed(loss(logits, batch.targets), logits, teacher_logits), logits)

    def __deepcopy__(self, memo: Any) -> _Distilled:
        return self  # it is immutable: copies can share one teacher


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


def _renormalization(data: Any, context: Context) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(scale, shift) from the normalization of `context` to that of the teacher, whose run recorded `data`; None if the
    two are the same."""
    if (tuple(data["mean"]), tuple(data["std"])) == (context.mean, context.std):
        return None
    if not data["mean"] or not context.mean:
        raise ValueError(
            "method.teacher: teacher and student must use the same normalize if one of them uses normalize=image"
        )
    known = (data["mean"], data["std"], context.mean, context.std)
    mean, std, own_mean, own_std = (torch.tensor(v, device=context.device)[:, None, None] for v in known)
    return own_std / std, (own_mean - mean) / std
