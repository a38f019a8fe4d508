"""The momentum of the running statistics of BatchNorm, and what is said of one that is too small for a training."""

import pytest
import torch
from torch import nn

from core.common.errors import UserError
from core.context import Context
from core.launch import Launch
from core.models import Timm, Torchvision
from core.models.norms import slow_statistics
from core.runs.train import train
from experiments.tiny import EXPERIMENT
from tests.support.optional import library

CONTEXT = Context(tuple("abc"), (4,) * 3, (32, 32, 3), 12, 2, 3, 6, torch.device("cpu"))


def momenta(model):
    return {module.momentum for module in model.build(CONTEXT).modules() if isinstance(module, nn.BatchNorm2d)}


def test_the_momentum_is_that_of_every_batchnorm():
    assert momenta(Torchvision(name="mobilenet_v3_small")) == {0.01}
    assert momenta(Torchvision(name="mobilenet_v3_small", norm_momentum=0.2)) == {0.2}


def test_the_momentum_of_a_network_of_timm():
    library("timm")
    assert momenta(Timm(name="resnet10t", norm_momentum=0.2)) == {0.2}


def test_a_network_without_batchnorm_is_refused():
    experiment = EXPERIMENT.but({"model": Torchvision(name="convnext_tiny", resize=32, norm_momentum=0.1)})
    with pytest.raises(UserError, match=r"norm_momentum: the network has no BatchNorm; set it to none"):
        train(experiment, Launch(mlflow=False, threads=1), "tiny")


@pytest.mark.parametrize(("batches", "told"), [(300, "4.9%"), (689, None)])
def test_statistics_that_keep_their_initial_values_are_told(batches, told):
    """Of a channel whose variance is 0.01, the network then divides by the root of 0.0585 instead."""
    norm = nn.BatchNorm2d(1, momentum=0.01)
    for _ in range(batches):
        norm(torch.randn(64, 1, 8, 8) * 0.1)
    assert norm.running_var.item() == pytest.approx(0.01 + 0.99**batches, rel=0.05)
    said = slow_statistics(nn.Sequential(norm), batches)
    assert said is told or told in said


def test_the_default_of_torch_is_never_told():
    assert slow_statistics(nn.Sequential(nn.BatchNorm2d(1)), 1) is None
    assert slow_statistics(nn.Linear(1, 1), 1) is None


def test_a_run_tells_it_unless_the_statistics_were_loaded(capsys):
    launch, short = Launch(mlflow=False, threads=1), {"limit": 40, "epochs": 1}
    untrained = Torchvision(name="mobilenet_v3_small", resize=32)
    run = train(EXPERIMENT.but({"model": untrained} | short), launch, "tiny")
    assert "--model.norm_momentum 0.1" in capsys.readouterr().out
    train(EXPERIMENT.but({"model": untrained.but({"weights": run.id})} | short), launch, "tiny")
    assert "norm_momentum" not in capsys.readouterr().out
