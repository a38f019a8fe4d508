"""Progressive resizing: sizes over epochs, pixels against Pillow's, what the network sees, what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import VisionTransformer

from core.augment import CutMix, Cutout, Mixup, RandomCrop, Resize
from core.common.errors import UserError
from core.context import Clock
from core.launch import Launch
from core.loading.batches import Batch
from core.methods import Consistency
from core.models import MLP, Model, SmallCNN
from core.runs.train import train
from core.training.assemble import assemble, check
from core.training.loop import fit
from core.training.smoke import smoked
from tests.support.loop import BASE, Tiny

HALF = Resize(initial_scale=0.5, size_increment=2)
CONVOLUTIONAL = {"model": SmallCNN(widths=(8,)), "epochs": 4}
LAUNCH = Launch(device="cpu", threads=1, mlflow=False)


def sizes(step, epochs, height, width):
    return [step.size(Clock(epoch * 3 + 1, 3, epochs), height, width) for epoch in range(epochs)]


def test_sizes_of_a_schedule():
    step = Resize(initial_scale=0.5, delay_fraction=0.5, finetune_fraction=0.2, size_increment=4)
    sides = [height for height, _ in sizes(step, 10, 32, 32)]
    assert sides == [16, 16, 16, 16, 16, 16, 20, 28, 32, 32]
    assert sizes(step, 1, 32, 32) == [(32, 32)]
    assert sizes(step, 2, 32, 32) == [(16, 16), (32, 32)]
    at_once = Resize(initial_scale=0.5, delay_fraction=0.8, finetune_fraction=0.2)
    assert [height for height, _ in sizes(at_once, 5, 32, 32)] == [16, 16, 16, 16, 32]


@given(
    st.floats(0.1, 0.99),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
    st.integers(1, 16),
    st.integers(1, 40),
    st.integers(8, 300),
    st.integers(8, 300),
)
def test_sizes_grow_to_the_full_one(scale, delay, finetune, increment, epochs, height, width):
    step = Resize(
        initial_scale=scale,
        delay_fraction=delay,
        finetune_fraction=min(finetune, 1 - delay),
        size_increment=increment,
    )
    found = sizes(step, epochs, height, width)
    assert found == sorted(found)
    assert found[-1] == (height, width)
    for tall, wide in found:
        assert tall == height or (tall < height and tall % increment == 0)
        assert wide == width or (wide < width and wide % increment == 0)


def test_pixels_are_those_of_pillow():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 20, 28, generator=generator).to(memory_format=torch.channels_last)
    step = Resize(initial_scale=0.6)
    batch = step.apply(Batch(images, torch.zeros(5), torch.arange(5), torch.arange(5)), 2, Clock(0, 1, 3))
    assert batch.images.shape == (5, 3, 12, 16)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    for image, made in zip(images, batch.images, strict=True):
        for channel, plane in zip(image, made, strict=True):
            expected = Image.fromarray(channel.numpy()).resize((16, 12), Image.Resampling.BILINEAR)
            assert np.allclose(plane.numpy(), np.asarray(expected), atol=1e-5)


@pytest.mark.parametrize(
    "augment", [(RandomCrop(padding=1), HALF, Mixup(), CutMix()), (CutMix(), HALF)], ids=["before", "after"]
)
def test_training_is_small_first_and_validation_is_full(augment):
    experiment = BASE.but(CONVOLUTIONAL | {"augment": augment})
    parts = assemble(experiment, Tiny().load(), LAUNCH)
    trained, validated = [], []

    def see(module, inputs):
        (trained if module.training else validated).append(tuple(inputs[0].shape[2:]))

    parts.state.model.register_forward_pre_hook(see)
    events = list(fit(parts.setup, parts.state, parts.train, parts.val))
    steps = len(parts.train.plan)
    assert trained == [(4, 4)] * 3 * steps + [(6, 6)] * steps
    assert set(validated) == {(6, 6)}
    assert all(np.isfinite(event.metrics["train/loss"]) for event in events if event.validation)


class Transformer(Model):
    """A vision transformer of torchvision, whose positions are of one image size."""

    def network(self, context):
        height = context.image_shape[0]
        return VisionTransformer(height, 2, 1, 1, 8, 8, num_classes=len(context.classes))


@pytest.mark.parametrize("model", [MLP(hidden=(8,)), Transformer()], ids=lambda model: model.label())
def test_a_network_of_one_size_is_refused(model):
    experiment = BASE.but({"model": model, "augment": (HALF,)})
    with pytest.raises(UserError, match=r"augment\.resize: the network takes images of one size only") as caught:
        assemble(experiment, Tiny().load(), LAUNCH)
    assert len(caught.value.lines) == 1
    assert "4x4 pixels" in str(caught.value)
    assemble(experiment.but({"augment": ()}), Tiny().load(), LAUNCH)  # which the full size fits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": (Resize(size_increment=8),)}, r"0\.75 of 6x6 pixels, rounded to multiples of 8, is the full size"),
        ({"augment": (HALF, Cutout(size=6))}, "the square is larger than the 4x4 images"),
        ({"method": Consistency(view=(HALF,)), "augment": ()}, r"method\.view\.resize: .* declare it in augment"),
    ],
    ids=["full already", "steps after it", "view"],
)
def test_what_does_not_fit_small_images_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        assemble(BASE.but(CONVOLUTIONAL | changes), Tiny().load(), LAUNCH)


def test_fractions_exceed_no_whole():
    with pytest.raises(UserError, match=r"delay_fraction 0\.9 and finetune_fraction 0\.5 together"):
        check(BASE.but({"augment": (Resize(delay_fraction=0.9, finetune_fraction=0.5),)}))


def test_a_smoke_test_covers_both_sizes():
    experiment = smoked(BASE.but(CONVOLUTIONAL | {"augment": (HALF,)}))
    assert sizes(HALF, experiment.epochs, 6, 6) == [(4, 4), (6, 6)]
    assert smoked(BASE).epochs == 1


def test_a_run_of_one_epoch_says_that_no_image_is_smaller(home, capsys):
    train(BASE.but(CONVOLUTIONAL | {"augment": (HALF,), "epochs": 1}), LAUNCH)
    assert "in a run of one epoch, all images have the full size" in capsys.readouterr().out
