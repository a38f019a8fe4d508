"""`Run.predict`: what the test of the run measured, for any number of images, and the network stays as it was."""

import numpy as np
import pytest
import torch

from core import Launch, train
from core.augment import HorizontalFlip
from core.common.errors import UserError
from core.inference.network import network_of
from core.runs.trained import load
from data import Digits
from data.reading.decode import fitted
from experiments.tiny import EXPERIMENT


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        shifting = {"epochs": 1, "limit": 300, "augment": (HorizontalFlip(),), "tta": "flip_shift"}
        yield train(EXPERIMENT.but(shifting), Launch(mlflow=False))


@pytest.fixture(scope="module")
def images():
    return Digits().load(None).limited(300).test


def test_predictions_are_those_of_the_recorded_test(trained, images):
    probabilities = load(trained.folder).predict(images.pixels[images.rows])
    assert (probabilities.argmax(1) == images.targets).mean() == pytest.approx(trained.metrics["test/accuracy"])


def test_predictions_do_not_depend_on_how_many_are_asked_for_at_once(trained, images, monkeypatch):
    pixels = images.pixels[images.rows]
    sizes = []
    run = load(trained.folder)
    run._network("cpu").model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    together = run.predict(pixels)
    assert max(sizes) <= 64 < len(pixels)
    np.testing.assert_allclose(together[:3], run.predict(pixels[:3]), rtol=1e-4, atol=1e-6)


def test_a_network_for_gray_images_takes_color(trained):
    color = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    pixels, _ = fitted(color, 8)
    expected = trained.predict(np.rint(pixels.mean(axis=-1, keepdims=True)).astype(np.uint8)[None])
    np.testing.assert_array_equal(trained.predict([color]), expected)
    np.testing.assert_array_equal(trained.predict(pixels[None]), expected)


@pytest.mark.parametrize(("precision", "bits"), [("bf16", 8), ("fp16", 11)])
def test_a_whole_network_computes_in_half_precision(trained, images, precision, bits):
    whole, half = network_of(trained, "cpu", "fp32"), network_of(trained, "cpu", precision)
    assert {tensor.dtype for tensor in half.model.parameters()} == {half.dtype} != {torch.float32}
    pixels = images.pixels[images.rows]
    full, found = whole.logits(pixels), half.logits(pixels)
    assert found.dtype == torch.float32
    assert 0 < (found - full).abs().max() < 30 * 2.0**-bits * full.abs().max()
    assert (found.argmax(1) == full.argmax(1)).float().mean() > 0.97


@pytest.mark.parametrize("inside", [torch.inference_mode, torch.no_grad])
def test_the_network_can_be_trained_after_a_prediction(inside, trained, images):
    run = load(trained.folder)
    pixels = images.pixels[images.rows[:8]]
    before = run.predict(pixels)
    with inside():
        network = run.model
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    network.train()(torch.zeros(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    assert np.array_equal(run.predict(pixels), before)  # the run's own predictions are those of its weights


def test_images_that_do_not_fit_are_refused(trained):
    run = load(trained.folder)
    for wrong in (
        np.zeros((2, 8, 8, 1), np.float32),
        np.zeros((8, 8, 1), np.uint8),
        np.zeros((2, 8, 8, 4), np.uint8),
        torch.zeros(2, 1, 8, 8),
        [np.zeros((0, 8), np.uint8)],
    ):
        with pytest.raises(ValueError, match="images must be uint8"):
            run.predict(wrong)
    for wrong, message in (
        (np.zeros((0, 8, 8, 1), np.uint8), "there are no images"),
        ([], "there are no images"),
        ([np.zeros((8, 8), np.uint8), 7], "image 1 is of type int; predict takes"),
        (7, "predict takes uint8 arrays .* not int"),
        (Digits().load(None), "not Splits"),
    ):
        with pytest.raises(ValueError, match=message):
            run.predict(wrong)
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        run.predict(np.zeros((1, 8, 8, 1), np.uint8), batch_size=0)
    with pytest.raises(UserError, match="device: abacus cannot be used here"):
        run.predict(np.zeros((1, 8, 8, 1), np.uint8), device="abacus")
