"""Quantization-aware training: what an int8 engine would compute, on record and in every form of the network."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from core.common.errors import UserError
from core.export.graph import exported
from core.inference.network import network_of
from core.launch import Launch
from core.models import SmallCNN
from core.models.quantize import Quantize, RoundedConv2d, plain
from core.models.weights import load_weights
from core.optimizers.averaging import Ema
from core.runs.train import train
from core.runs.trained import load
from core.training.assemble import assemble, check
from data import Digits
from experiments.tiny import EXPERIMENT
from tests.support.loop import BASE, Tiny, digest, run, taken_up
from tests.support.networks import context

CNN = BASE.but({"model": SmallCNN(widths=(4, 8)), "quantize": Quantize(decay=0.9), "epochs": 2})


def built(changes):
    return assemble(CNN.but(changes), Tiny().load(), Launch(device="cpu"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        small = {"epochs": 2, "limit": 600, "model.widths": (16, 32), "quantize": Quantize()}
        yield load(train(EXPERIMENT.but(small), Launch(mlflow=False, threads=1), "tiny").id)


@pytest.fixture(scope="module")
def images():
    return Digits().load(None).limited(600).test


def test_layers_compute_with_eight_bits():
    """Against integers: each layer's output is that of its integer weights and inputs, times their scales."""
    parts = built({})
    run(parts)
    layer = parts.state.model[3].eval()
    x = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    low, high = min(float(layer.input_range[0]), 0), max(float(layer.input_range[1]), 0)
    assert low < high
    step = (high - low) / 255
    zero = round(-low / step)
    inputs = np.clip(np.round(x.numpy().astype(float) / step + zero), 0, 255) - zero
    steps = layer.weight.detach().abs().amax((1, 2, 3)).numpy().astype(float) / 127
    weights = np.round(layer.weight.detach().numpy().astype(float) / steps[:, None, None, None])
    assert np.abs(weights).max() == 127
    whole = nn.functional.conv2d(torch.from_numpy(inputs), torch.from_numpy(weights), padding=1)
    expected = whole * step * torch.from_numpy(steps)[:, None, None]
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=2 * step * float(steps.max()))


def test_gradients_pass_the_rounding_within_the_range():
    layer = Quantize().prepare(nn.Sequential(nn.Linear(3, 2, bias=False)))[0]
    layer.input_range.copy_(torch.tensor([-1.0, 1.0]))
    x = torch.tensor([[0.3, -0.7, 5.0]], requires_grad=True)
    layer.eval()(x).sum().backward()
    rounded = torch.fake_quantize_per_channel_affine(
        layer.weight, layer.weight.detach().abs().amax(1) / 127, torch.zeros(2, dtype=torch.int32), 0, -127, 127
    )
    torch.testing.assert_close(x.grad[0, :2], rounded.sum(0)[:2])
    assert x.grad[0, 2] == 0
    assert layer.weight.grad[0].abs().min() > 0


def test_the_record_gives_the_recorded_accuracy_and_so_does_the_exported_program(trained, images):
    pixels = images.pixels[images.rows]
    probabilities = trained.predict(pixels)
    assert (probabilities.argmax(1) == images.targets).mean() == pytest.approx(trained.metrics["test/accuracy"])
    served = exported(trained).module()(torch.from_numpy(np.ascontiguousarray(pixels[:9])))
    torch.testing.assert_close(served, torch.from_numpy(probabilities[:9]), rtol=1e-3, atol=1e-4)
    assert trained.compression["after"]["parameters"] == trained.compression["before"]["parameters"]


def test_weights_are_those_of_the_plain_network_and_it_is_nearly_as_good(trained, images):
    network = trained.model
    rounded = sum(isinstance(layer, RoundedConv2d) for layer in network.modules())
    assert rounded == 4
    float_network = plain(copy.deepcopy(network))
    declared = trained.experiment.model.build(context("0123456789", (8, 8, 1)))
    load_weights(declared, float_network.state_dict(), "plain")  # the same names and shapes
    kinds = [type(module) for module in float_network.modules()]
    assert kinds == [type(module) for module in declared.modules()]
    normalized = network_of(trained, "cpu").images(images.pixels[images.rows])
    with torch.inference_mode():
        apart = (float_network(normalized) - network(normalized)).abs()
    assert 0 < apart.max() < 1


@pytest.mark.parametrize("leave", [2, 7])
def test_left_and_taken_up_it_ends_in_the_same_bits(leave):
    changes = {"ema": Ema(decay=0.5)}
    whole, first, second = built(changes), built(changes), built(changes)
    run(whole)
    taken_up(first, second, leave)
    assert digest(second.state) == digest(whole.state)
    assert whole.state.evaluated[0].input_range.any()


def test_what_cannot_be_quantized_is_refused(trained):
    with pytest.raises(UserError, match="quantize and precision bf16: rounding to int8 is done in fp32"):
        check(CNN.but({"precision": "bf16"}))
    with pytest.raises(UserError, match=r"quantize\.skip: no module of the model matches layer1"):
        built({"quantize.skip": ("layer1",)})
    with pytest.raises(UserError, match="quantize: the model has no convolution or linear layer to quantize"):
        built({"quantize.skip": ("*",)})
    with pytest.raises(UserError, match=rf"--precision bf16: {trained.id} declares quantize, which needs fp32"):
        network_of(trained, "cpu", "bf16")
