"""Distillation from a run on record."""

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
    """(1 - alpha) loss + alpha T^2 KL(teacher || pupil), both softened by T (Hinton et al. 2015, section 2).

    The teacher is the best epoch's network of a finished run. It sees the pupil's augmented images, normalized as it
    was trained. Its weights stand in that run's record: they are not trained, not part of the state, and in no
    checkpoint; a resumed run reads them there again.
    """

    teacher: str = Field(description="a finished run: its id, a unique beginning of it, or its folder")
    temperature: float = Field(4.0, gt=0, description="T: logits are divided by it; larger shows the lesser classes")
    alpha: float = Field(0.9, ge=0, le=1, description="weight of the teacher; the rest is the targets'")

    def check(self) -> None:
        try:
            run = RecordedRun.load(self.teacher)
        except UserError as mistakes:
            raise ValueError(f"teacher: {mistakes}") from None
        if run.status != "FINISHED":
            raise ValueError(f"teacher: {run.id} is {run.status}; only a finished run's weights stay as they are")
        if not (run.folder / "artifacts" / WEIGHTS).exists():
            raise ValueError(f"teacher: {run.id} has kept no weights")

    def build(self, context: Context) -> Any:
        """Raises ValueError for a teacher of other classes or another image shape."""
        self.check()
        run = RecordedRun.load(self.teacher)
        _fits(run, context)
        teacher = model_of(run).requires_grad_(False).to(context.device).to(memory_format=torch.channels_last)
        return _Distilled(self, teacher, _renormalization(run.record["data"], context))

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        raise TypeError("Distill must load its teacher: call what its build(context) gives")

    def mixed(self, losses: torch.Tensor, logits: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """[N], of losses [N] and the logits [N, C] of pupil and teacher."""
        soft = F.kl_div(
            (full(logits) / self.temperature).log_softmax(dim=1),
            (full(teacher) / self.temperature).log_softmax(dim=1),
            reduction="none",
            log_target=True,
        ).sum(dim=1)
        return (1 - self.alpha) * losses + self.alpha * self.temperature**2 * soft


@dataclass(frozen=True, eq=False)
class _Distilled:
    """No nn.Module on purpose: whatever walks the state's modules passes the teacher by.

    renormalize: (scale, shift), float [C, 1, 1] each, from the pupil's normalization to the teacher's; None where they
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
            wanted = self.teacher(images)
        logits = model(batch.images)
        return Output(self.declared.mixed(loss(logits, batch.targets), logits, wanted), logits)

    def __deepcopy__(self, memo: Any) -> _Distilled:
        return self  # it never changes: one teacher in memory is enough


def _fits(run: RecordedRun, context: Context) -> None:
    data = run.record["data"]
    classes, shape = tuple(data["classes"]), tuple(data["image_shape"])
    if classes != context.classes:
        if sorted(classes) == sorted(context.classes):
            raise ValueError(f"method.teacher: {run.id} has these classes in another order")
        only = sorted(set(classes) ^ set(context.classes))[:5]
        told = f"{len(classes)} classes, the data {len(context.classes)}; not in both: {', '.join(only)}"
        raise ValueError(f"method.teacher: {run.id} knows {told}")
    if shape != context.image_shape:
        there, here = ("x".join(map(str, sides)) for sides in (shape, context.image_shape))
        raise ValueError(f"method.teacher: {run.id} was trained on images of {there}, these are {here}")


def _renormalization(data: Any, context: Context) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What images normalized here are multiplied by, and then what is added, to be what the teacher was trained on."""
    if (tuple(data["mean"]), tuple(data["std"])) == (context.mean, context.std):
        return None
    if not data["mean"] or not context.mean:
        raise ValueError(
            "method.teacher: one of the two sees each image normalized by itself; use one normalize for both"
        )
    known = (data["mean"], data["std"], context.mean, context.std)
    mean, std, own_mean, own_std = (torch.tensor(v, device=context.device)[:, None, None] for v in known)
    return own_std / std, (own_mean - mean) / std
