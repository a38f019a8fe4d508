"""What does not fit together is refused before anything is recorded, in one line; a user's own bug is not hidden."""

import pytest
import torch
from torch import nn

from core.augment import Albumentation, CoarseDropout, Cutout, RandomCrop
from core.common import paths
from core.common.errors import UserError
from core.launch import Launch
from core.losses import Loss
from core.models import MLP, Model, ResNet
from core.runs.train import train
from experiments.tiny import EXPERIMENT

OFFLINE = Launch(mlflow=False, threads=1)
SHORT = EXPERIMENT.but({"epochs": 1, "limit": 100})


class Eleven(Model):
    """One output too many."""

    def network(self, context):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 11))


class Summed(Loss):
    """One value for the whole batch."""

    def __call__(self, logits, targets):
        return nn.functional.cross_entropy(logits, targets)


class PerClass(Loss):
    """One value for each class."""

    def __call__(self, logits, targets):
        return logits.square()


def image_step(name, **arguments):
    return {"augment": (Albumentation(name=name, arguments=arguments),)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"augment": (RandomCrop(padding=8, reflect=True),)},
            "augment: padding 8 must be smaller than both sides of the 8x8",
        ),
        ({"augment": (Cutout(size=100),)}, "larger than the 8x8 image"),
        ({"augment": (CoarseDropout(size=9),)}, r"augment\.coarse_dropout\.size 9: the squares are larger"),
        (image_step("CenterCrop", height=4, width=4, p=0.01), "must preserve shape and dtype"),
        (image_step("ToFloat", max_value=255, p=0.5), "must preserve shape and dtype"),
        (image_step("RandomCrop", height=40, width=40), r"augment\.random_crop: "),
        ({"model": ResNet(stem="imagenet"), "batch_size": 1}, "BatchNorm needs more than 1 image"),
        ({"model": Eleven()}, r"logits have shape \[8, 11\]; expected \[8, 10\]"),
        ({"loss": Summed()}, r"it returns shape \[\]; expected one value per image, \[8\]"),
        ({"loss": PerClass()}, r"it returns shape \[8, 10\]; expected one value per image"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)
def test_what_does_not_fit_is_reported_in_one_line_and_leaves_nothing_behind(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        train(SHORT.but(changes), OFFLINE)
    assert len(caught.value.lines) == 1
    assert not paths.runs().exists()


def test_it_leaves_the_weights_and_statistics_as_they_were():
    from core.training.assemble import assemble
    from data import Digits

    parts = assemble(EXPERIMENT, Digits().load(None), Launch(device="cpu"))
    norms = [module for module in parts.state.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(int(norm.num_batches_tracked) == 0 for norm in norms)
    assert norms


class Tied(Model):
    """Two layers that share one weight."""

    def network(self, context):
        first, second = nn.Linear(64, 64), nn.Linear(64, 64)
        second.weight = first.weight
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(64, 10))


def test_tied_weights_are_kept_and_loaded():
    run = train(SHORT.but({"model": Tied()}), OFFLINE)
    assert run.status == "FINISHED"
    assert torch.equal(run.model[1].weight, run.model[3].weight)


class Moded(Loss):
    """A loss that would notice being evaluated in training mode."""

    def build(self, context):
        return _Moded()

    def __call__(self, logits, targets):
        raise AssertionError


class _Moded(nn.Module):
    def forward(self, logits, targets):
        if torch.is_inference_mode_enabled():
            assert not self.training, "validation must not train the loss"
        return nn.functional.cross_entropy(logits, targets, reduction="none")


def test_a_loss_with_modes_is_validated_in_evaluation_mode():
    assert train(SHORT.but({"loss": Moded(), "model": MLP()}), OFFLINE).status == "FINISHED"
