"""The network of airbench: what its first layer does to real images, its first weights, and a run of it."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core.augment import AlternatingFlip, RandomCrop
from core.common.errors import UserError
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Dataset, Images, Splits
from core.loading.normalize import mean_and_std, sample
from core.models import Airbench
from core.models.airbench import EPS, PATCH, whitening_filters
from core.models.freeze import Freeze
from core.models.narrow import narrow
from core.models.prune import Prune
from core.models.structured import prune_channels
from core.optimizers import SGD, Muon
from core.runs.recorder import RunSpec
from core.runs.train import opened
from core.runs.trained import Run
from core.schedules import Polynomial
from core.training.assemble import assemble
from core.training.loop import fit
from core.training.runtime import open_runtime
from data import Digits
from tests.support.loop import digest, run, taken_up
from tests.support.networks import context
from tests.support.optional import library


class Grainy(Dataset):
    """400 of scikit-learn's digits at twice their size, 16x16, with grain, as photographs have."""

    def load(self, root=None):
        found = Digits().load(None).limited(400)

        def grainy(images):
            large = images.pixels[images.rows].repeat(2, axis=1).repeat(2, axis=2) // 2
            grain = np.random.default_rng(0).integers(0, 100, large.shape, dtype=np.uint8)
            return Images(large + grain, np.arange(len(large)), images.targets)

        splits = (grainy(images) for images in (found.train, found.val, found.test))
        return Splits("grainy", found.classes, *splits, "digest", "scikit-learn")


EXPERIMENT = Experiment(
    data=Grainy(),
    model=Airbench(widths=(8, 16, 16)),
    freeze=Freeze(up_to="whiten", from_epoch=2),
    augment=(AlternatingFlip(), RandomCrop(padding=2, reflect=True)),
    optimizer=Muon(
        lr=0.24,
        momentum=0.6,
        ns_steps=3,
        normalize_weights=True,
        rest=SGD(lr=0.13, momentum=0.85, nesterov=True, weight_decay=0.01),
        groups={"*.bias": 10},
    ),
    schedule=Polynomial(),
    epochs=3,
    batch_size=50,
    precision="bf16",
    tta="flip_shift_half",
)


def built(changes=None):
    experiment = EXPERIMENT.but(changes or {})
    return assemble(experiment, experiment.data.load(None), Launch(device="cpu"))


def moments(outputs):
    flat = outputs.double().transpose(0, 1).flatten(1)
    return flat @ flat.T / flat.shape[1]


def test_whitened_patches_of_the_training_images_are_uncorrelated_and_of_size_1():
    images = Digits().load(None).train
    normalized = sample(images, *mean_and_std(images), 700)
    assert normalized.shape == (700, 1, 8, 8)
    for size in (2, 3):
        filters = whitening_filters(normalized, size, eps=0)
        assert filters.shape == (size**2, 1, size, size)
        expected = torch.eye(size**2, dtype=torch.float64)
        torch.testing.assert_close(moments(F.conv2d(normalized, filters)), expected, atol=1e-4, rtol=0)


def test_patches_of_one_color_leave_filters_finite():
    filters = whitening_filters(torch.ones(3, 1, 4, 4), 2, EPS)
    assert torch.isfinite(filters).all()


def test_the_first_layer_whitens_the_training_images_whatever_the_seed_and_init():
    parts = built()
    whiten = parts.state.model.whiten
    normalized = sample(parts.images, parts.mean, parts.std, 1000)
    outputs = F.conv2d(normalized, whiten.weight)
    half = PATCH**2
    torch.testing.assert_close(outputs[:, :half], -outputs[:, half:])
    torch.testing.assert_close(moments(outputs[:, :half]).float(), torch.eye(half), atol=0.02, rtol=0)
    other = built({"seed": 1, "model.init": "kaiming"}).state.model
    assert torch.equal(other.whiten.weight, whiten.weight)
    assert not torch.equal(other.group1.conv1.weight, parts.state.model.group1.conv1.weight)


def test_it_has_the_size_and_the_first_weights_of_the_source():
    torch.manual_seed(0)
    network = Airbench().build(context(tuple("0123456789")))
    assert sum(p.numel() for p in network.parameters()) == 1_972_792
    names = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert names == ["whiten.weight", *(f"group{i}.norm{j}.weight" for i in (1, 2, 3) for j in (1, 2))]
    assert network.whiten.weight.shape == (24, 3, 2, 2)
    images = torch.randn(4, 24, 9, 9)
    torch.testing.assert_close(network.group1.conv1(images)[:, :24], images)  # the identity
    assert network.head.weight.std().item() == pytest.approx(1 / 256)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_it_computes_what_the_source_does():
    network = Airbench(widths=(4, 8, 8)).build(context(tuple("abc"), (19, 21, 1))).train()
    x = images = torch.randn(6, 1, 19, 21)
    x = F.gelu(F.conv2d(x, network.whiten.weight, network.whiten.bias))
    for group in (network.group1, network.group2, network.group3):
        x = F.max_pool2d(F.conv2d(x, group.conv1.weight, padding=1), 2)
        x = F.gelu(F.batch_norm(x, None, None, None, group.norm1.bias, training=True))
        x = F.conv2d(x, group.conv2.weight, padding=1)
        x = F.gelu(F.batch_norm(x, None, None, None, group.norm2.bias, training=True))
    expected = F.linear(x.amax(dim=(2, 3)), network.head.weight)
    torch.testing.assert_close(network(images), expected, atol=1e-4, rtol=1e-3)
    mean = F.conv2d(F.gelu(network.whiten(images)), network.group1.conv1.weight, padding=1)
    mean = F.max_pool2d(mean, 2).mean((0, 2, 3))
    torch.testing.assert_close(network.group1.norm1.running_mean, 0.4 * mean)  # 0.6 of what was there


def test_scaled_logits_are_smaller_first_weights_and_another_rate():
    """The script divides the logits by the number of inputs; see the docstring of Airbench."""
    inputs, features, targets = 16, torch.randn(5, 16), torch.arange(5) % 3
    scaled, plain = nn.Linear(inputs, 3, bias=False), nn.Linear(inputs, 3, bias=False)
    with torch.no_grad():
        plain.weight.copy_(scaled.weight / inputs)
    options = {"momentum": 0.85, "nesterov": True}
    first = torch.optim.SGD(scaled.parameters(), lr=50.0, weight_decay=1e-3, **options)
    second = torch.optim.SGD(plain.parameters(), lr=50.0 / inputs**2, weight_decay=1e-3 * inputs**2, **options)
    for _ in range(4):
        for network, optimizer, divisor in ((scaled, first, inputs), (plain, second, 1)):
            optimizer.zero_grad()
            F.cross_entropy(network(features) / divisor, targets).backward()
            optimizer.step()
    torch.testing.assert_close(plain.weight, scaled.weight / inputs)


def test_the_bias_of_the_first_layer_is_trained_in_the_first_epochs_and_its_filters_never():
    parts = built()
    whiten, states = parts.state.model.whiten, []
    filters = whiten.weight.clone()
    states.append(whiten.bias.detach().clone())
    for event in fit(parts.setup, parts.state, parts.train, parts.val):
        if event.validation:
            states.append(whiten.bias.detach().clone())
    assert [torch.equal(a, b) for a, b in itertools.pairwise(states)] == [False, False, True]
    assert torch.equal(whiten.weight, filters)
    assert parts.state.history[-1]["train/loss"] < parts.state.history[0]["train/loss"]


@pytest.mark.parametrize("leave", [10, 20])
def test_a_resumed_training_is_the_same_to_the_bit(leave):
    whole, first, second = built(), built(), built()
    run(whole)
    taken_up(first, second, leave)
    assert digest(second.state) == digest(whole.state)


def test_a_run_is_rebuilt_from_its_record_without_the_training_images():
    launch = Launch(mlflow=False, threads=1)
    spec = RunSpec.of(EXPERIMENT.but({"monitor": "val/loss"}), launch, "tiny")
    with open_runtime(launch, None) as runtime, opened(spec, runtime) as trainer:
        list(trainer.events())
    test, parts = Grainy().load().test, trainer.parts
    answers = Run(trainer.run.folder).predict(test.pixels)
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-4)
    assert (answers.argmax(1) == test.targets).mean() > 0.3  # of ten classes
    assert parts.experiment.best_epoch(parts.state.history) == 2
    expected = parts.network.logits(test.pixels).softmax(1).numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_what_is_not_trained_stays_so_when_channels_are_removed():
    library("torch_pruning", extra="compress")
    network, smaller = (Airbench(widths=(8, 16, 16)).build(context(shape=(16, 16, 3))) for _ in range(2))
    prune_channels(smaller, Prune(how="structured", amount=0.5), (16, 16, 3))
    rebuilt = Airbench(widths=(8, 16, 16)).build(context(shape=(16, 16, 3)))
    narrow(rebuilt, smaller.state_dict())
    for name, parameter in network.named_parameters():
        for other in (smaller, rebuilt):
            assert other.get_parameter(name).requires_grad == parameter.requires_grad, name
    assert smaller.group1.conv1.weight.shape != network.group1.conv1.weight.shape


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UserError, match=r"model: Airbench needs images of at least 9 pixels a side.* 8x8"):
        built({"data": Digits()})
    assert Airbench().build(context(shape=(9, 9, 3)))(torch.randn(2, 3, 9, 9)).shape == (2, 4)
