"""Schedules, optimizers, stopping and models, each against a reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.common.errors import UserError
from core.context import Context
from core.metrics.names import best_epoch
from core.models import MLP, ResNet, SmallCNN
from core.optimizers import SGD, Adam, AdamW
from core.schedules import Clock, Constant, Cosine
from core.schedules.stopping import EarlyStopping


def context(shape=(8, 8, 3), classes=5):
    names = tuple(map(str, range(classes)))
    return Context(names, (4,) * classes, shape, 20, 2, 3, 10, torch.device("cpu"))


def curve(schedule, steps, epochs):
    return [schedule(Clock(step, steps, epochs)) for step in range(steps * epochs)]


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 0.5))
def test_cosine_is_torchs(steps, epochs, final):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * epochs, eta_min=final)
    expected = []
    for _ in range(steps * epochs):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    np.testing.assert_allclose(curve(Cosine(min_lr_ratio=final), steps, epochs), expected, atol=1e-9)


@pytest.mark.parametrize("schedule", [Constant(warmup_epochs=2), Cosine(warmup_epochs=2)], ids=["constant", "cosine"])
def test_warmup_rises_in_a_line_to_1_and_the_schedule_follows(schedule):
    got = curve(schedule, 5, 10)
    np.testing.assert_allclose(got[:10], np.arange(1, 11) / 10)
    after = [type(schedule)()(Clock(step, 5, 8)) for step in range(40)]
    np.testing.assert_allclose(got[10:], after)


def test_warmup_longer_than_training_is_a_line():
    np.testing.assert_allclose(curve(Cosine(warmup_epochs=100), 4, 2), np.arange(1, 9) / 8)


OPTIMIZERS = [
    (SGD(lr=0.1, momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
    (Adam(lr=0.01), lambda p: torch.optim.Adam(p, 0.01)),
    (AdamW(lr=0.01, weight_decay=0.0), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.0)),
]


@pytest.mark.parametrize(("part", "reference"), OPTIMIZERS, ids=["sgd", "adam", "adamw"])
def test_optimizers_move_weights_as_torchs_do(part, reference):
    ours, theirs = (nn.Linear(3, 2) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    one, other = part.build(ours), reference(theirs.parameters())
    for step in range(5):
        for network, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            network(torch.ones(4, 3) * step).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))


def test_weight_decay_spares_norms_and_biases():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    groups = SGD(weight_decay=0.1).build(network).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert [decay[id(p)] for p in network.parameters()] == [0.1, 0, 0, 0]


def history(*accuracies):
    return [{"val/accuracy": a, "val/loss": 1 - a} for a in accuracies]


@pytest.mark.parametrize(
    ("accuracies", "stops"),
    [
        ((), False),
        ((0.1, 0.2, 0.3), False),
        ((0.3, 0.2), False),
        ((0.3, 0.2, 0.25), True),
        ((0.3, 0.2, 0.35, 0.34), False),
        ((0.3, 0.305, 0.309), True),  # below min_delta
        ((0.3, 0.3, 0.3), True),  # an equal score is no improvement
    ],
    ids=["empty", "rising", "one_worse", "two_worse", "recovered", "creeping", "flat"],
)
@pytest.mark.parametrize("metric", ["val/accuracy", "val/loss"])
def test_early_stopping(accuracies, stops, metric):
    assert EarlyStopping(patience=2, min_delta=0.01, monitor=metric)(history(*accuracies)) is stops


@pytest.mark.parametrize(
    ("losses", "best"),
    [((0.4, 0.3, 0.2, 0.1), 2), ((0.4, 0.1, 0.2, 0.3), 1), ((1, 1, 1, 1), 2), ((1, 1, math.nan, 1), 1)],
)
def test_of_equal_epochs_the_best_has_the_smaller_loss_and_is_the_later(losses, best):
    entries = zip((0.1, 0.5, 0.5, 0.2), losses, strict=True)
    equal = [{"val/accuracy": accuracy, "val/loss": loss} for accuracy, loss in entries]
    assert best_epoch(equal, "val/accuracy") == best


MODELS = [
    (MLP(hidden=(16, 8)), (8, 8, 1)),
    (MLP(hidden=()), (4, 5, 3)),
    (SmallCNN(widths=(4, 8, 8), dropout=0.1), (8, 9, 3)),
    (ResNet(depth=18, stem="cifar"), (8, 8, 1)),
    (ResNet(depth=34, stem="imagenet"), (32, 32, 1)),
]


@pytest.mark.parametrize(("model", "shape"), MODELS, ids=lambda value: getattr(value, "label", str)())
def test_models_map_images_to_logits_and_every_weight_gets_a_gradient(model, shape):
    network = model.build(context(shape))
    logits = network(torch.randn(2, shape[2], *shape[:2]).to(memory_format=torch.channels_last))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_resnet_18_with_a_cifar_stem_has_the_known_size_and_keeps_32_pixels_up_to_the_first_stage():
    network = ResNet(depth=18, stem="cifar").build(context((32, 32, 3), classes=10))
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    seen = []
    network.layer1.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2:]))
    network(torch.zeros(1, 3, 32, 32))
    assert seen == [(32, 32)]


def test_more_stages_than_the_image_can_halve_are_refused():
    with pytest.raises(ValueError, match="use fewer widths"):
        SmallCNN(widths=(4, 4, 4, 4, 4)).build(context((8, 8, 1)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD.read({"lr": 0}),
        lambda: Cosine.read({"warmup_epochs": -1}),
        lambda: EarlyStopping.read({"patience": 0}),
        lambda: ResNet.read({"depth": 20}),
        lambda: MLP.read({"hidden": [64, 0]}),
        lambda: MLP.read({"hidden": [2**62]}),
        lambda: SmallCNN.read({"widths": [8, -1]}),
        lambda: SmallCNN.read({"widths": [2**62]}),
    ],
)
def test_fields_refuse_bad_values(make):
    with pytest.raises(UserError):
        make()


def test_an_epoch_that_is_not_a_number_is_never_the_best():
    bad = {"val/accuracy": 0.1, "val/loss": math.nan}
    assert best_epoch([bad, *history(0.5, 0.6)], "val/loss") == 2
    assert best_epoch([bad, bad], "val/loss") == 1
