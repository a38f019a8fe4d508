"""SimCLR: a network learns, without labels, which two views are of one image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from core.common.errors import UserError
from core.common.tensors import full
from core.common.terminal import tell
from core.context import Context
from core.loading.batches import Batch
from core.methods.base import LossFunction, Method, Output
from core.models.transfer import head_of
from core.schedules import Clock


class SimCLR(Method):
    """Contrastive pretraining (Chen et al. 2020, section 2): of each image, two views that are augmented independently;
    a view's projection should be nearer to its partner's than to those of all other images, see `nt_xent`.

    The features are the inputs of the network's head; the projection is a perceptron with one hidden layer, which is
    not part of the weights that a run keeps. Labels do not train the features: the declared loss trains the head
    alone, on features without their gradient, so that all accuracies of a run are those of a linear classifier beside
    the pretraining (as in appendix B.6). The terms are recorded as train/contrastive_loss and
    train/label_loss, the fraction of views whose partner is the nearest of all as train/partner_accuracy. Images are
    contrasted within a micro-batch and a process.
    """

    temperature: float = Field(
        0.1, gt=0, description="temperature that divides the cosines; smaller values weight the nearest images more"
    )
    projection: int = Field(128, ge=1, le=65_536, description="number of outputs of the projection")
    hidden: int | None = Field(
        None, ge=1, le=65_536, description="number of hidden units of the projection; none: as many as features"
    )

    @property
    def views(self) -> int:
        return 2

    def build(self, context: Context) -> Any:
        """The method with its projection. Raises ValueError for a network without a head."""
        assert context.network is not None
        built = _Contrasted(self, context.network)
        if not context.rank:
            tell("SimCLR: accuracies are those of the head, a linear classifier that does not train the features")
        return built

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        raise TypeError("SimCLR has no projection yet; call step of the object that build(context) returns")


class _Contrasted(nn.Module):
    def __init__(self, declared: SimCLR, network: nn.Module):
        super().__init__()
        head = network.get_submodule(head_of(network))
        width = getattr(head, "in_features", None) or getattr(head, "in_channels", None)
        if width is None:
            raise ValueError("method: SimCLR needs a network whose head is a linear layer or a convolution")
        hidden = declared.hidden or width
        self.temperature = declared.temperature
        self.projection = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, declared.projection)
        )
        self.features = _Features()
        head.register_forward_pre_hook(self.features, prepend=True)  # before dropout of the head's inputs

    def step(self, model: nn.Module, loss: LossFunction, batch: Batch, clock: Clock) -> Output:
        """Raises UserError for mixed images, and for a micro-batch of one."""
        if batch.targets.is_floating_point():
            raise UserError(["method: SimCLR contrasts single images; leave Mixup and CutMix out of augment"])
        if len(batch.images) < 4:
            advice = "raise batch_size or lower grad_accum_steps"
            raise UserError([f"method: SimCLR has nothing to contrast in a micro-batch of one image; {advice}"])
        logits = model(batch.images)
        contrast, found = nt_xent(self.projection(full(self.features.taken())), self.temperature)
        labels = loss(logits, batch.targets)
        reported = {"contrastive_loss": contrast, "label_loss": labels, "partner_accuracy": found}
        return Output(contrast + labels, logits, reported)


class _Features:
    """Forward pre-hook of a head: keeps its input in training, [N, D] or [N, D, H, W], and cuts off the gradient."""

    def __init__(self) -> None:
        self.kept: torch.Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if not module.training:
            return None
        self.kept = inputs[0]
        return (inputs[0].detach(), *inputs[1:])

    def taken(self) -> torch.Tensor:
        """The features [N, D] of the last forward pass, which are not kept any longer; of a convolution, their means
        over positions."""
        features, self.kept = self.kept, None
        assert features is not None
        return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


def nt_xent(projections: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The normalized temperature-scaled cross-entropy (Chen et al. 2020, equation 1) of each of 2N views, [2N], and 1
    where the partner is the nearest of all others, else 0, [2N]. projections: [2N, D]; rows 2i and 2i + 1 are
    partners."""
    with torch.autocast(projections.device.type, enabled=False):
        unit = F.normalize(full(projections))
        itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
        cosines = (unit @ unit.T).masked_fill(itself, float("-inf")) / temperature
    partners = torch.arange(len(unit), device=unit.device) ^ 1
    return F.cross_entropy(cosines, partners, reduction="none"), (cosines.argmax(dim=1) == partners).to(cosines.dtype)
