"""Transforms of torchvision and of users as image steps: seeded by keys, and refused where they change size or type."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from core import randomness as K
from core.augment import HorizontalFlip, Transform, per_image
from core.common.errors import UserError
from core.launch import Launch
from core.loading.batches import Plan
from core.loading.images import Images
from core.loading.loader import Fetch, Host
from core.runs.train import train
from core.training.assemble import check
from experiments.tiny import EXPERIMENT

HERE = "tests.support.foreign"
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8)
STEPS = (
    Transform(name="RandomPerspective", arguments={"p": 1.0}),
    Transform(name="ColorJitter", arguments={"brightness": 0.5, "hue": 0.1}, takes="pil"),
    Transform(factory=f"{HERE}:jitter", arguments={"amount": 40}, takes="array"),
)


def test_a_fixed_transform_gives_torchvisions_pixels():
    expected = v2.RandomHorizontalFlip(p=1)(torch.from_numpy(IMAGE).movedim(-1, 0)).movedim(0, -1).numpy()
    for takes in ("tensor", "pil"):
        step = per_image((Transform(name="RandomHorizontalFlip", arguments={"p": 1.0}, takes=takes),))
        assert np.array_equal(step(IMAGE, 5), expected)
        gray = step(IMAGE[..., :1].copy(), 5)
        assert np.array_equal(gray, expected[..., :1])


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.label())
def test_an_image_depends_on_its_key_alone(step):
    keys = K.sample_keys(0, 0, np.arange(20)).tolist()
    once = [per_image((step,))(IMAGE, key) for key in keys]
    act = per_image((step,))
    torch.manual_seed(7)
    np.random.seed(7)
    assert all(np.array_equal(act(IMAGE, key), made) for key, made in reversed(list(zip(keys, once, strict=True))))
    assert len({made.tobytes() for made in once}) > 15
    assert torch.initial_seed() == 7
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    act(IMAGE, 1)
    assert torch.equal(torch.rand(2), expected)


def test_two_steps_of_one_kind_draw_different_numbers():
    shift = Transform(factory=f"{HERE}:jitter", arguments={"amount": 30}, takes="array")
    black = np.zeros((4, 4, 1), np.uint8)
    pairs = [
        (per_image((shift,))(black, key)[0, 0, 0], per_image((shift, shift))(black, key)[0, 0, 0]) for key in range(9)
    ]
    assert any(2 * int(one) != int(two) for one, two in pairs if two < 250)


def test_workers_change_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    images, cpu = Images(pixels, np.arange(60), np.arange(60) % 10), torch.device("cpu")
    plan, fetch = Plan(60, 20, seed=2), Fetch(images, per_image(STEPS))
    alone, together = Host.of(plan, fetch, cpu, 0), Host.of(plan, fetch, cpu, 2)
    for epoch, start in ((0, 0), (1, 1)):
        pairs = list(zip(alone.epoch(epoch, start), together.epoch(epoch, start), strict=True))
        assert pairs
        assert all(torch.equal(a.images, b.images) for a, b in pairs)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Transform(name="CenterCrop", arguments={"size": 4}), r"augment\.center_crop gave uint8 \[4, 4, 1\] for uint8"),
        (Transform(factory=f"{HERE}:to_float"), r"augment\.to_float gave float32 \[8, 8, 1\] for uint8 \[8, 8, 1\]"),
        (
            Transform(name="RandomCrop", arguments={"size": 40}),
            r"augment\.random_crop failed: ValueError: Req",
        ),
        (
            Transform(factory=f"{HERE}:jitter", arguments={"amount": "x"}, takes="array"),
            r"augment\.jitter failed: .*foreign\.py, ",
        ),
    ],
    ids=lambda value: "" if isinstance(value, Transform) else value[8:30],
)
def test_what_changes_size_or_type_is_refused_before_training_with_what_it_gave(step, message):
    with pytest.raises(UserError, match=message) as caught:
        train(EXPERIMENT.but({"augment": (step,)}), Launch(mlflow=False, device="cpu"))
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "RandomPerspektive"}, "v2 has no transform RandomPerspektive; did you mean RandomPerspective"),
        ({"name": "RandomPerspective", "arguments": {"q": 1}}, "RandomPerspective: .*unexpected keyword argument 'q'"),
        ({}, "either name, of a transform of torchv"),
        (
            {"name": "RandomInvert", "factory": f"{HERE}:jitter"},
            "either name, of a transform of torchv",
        ),
        ({"factory": f"{HERE}:jiter"}, "has no jiter; did you mean jitter"),
        ({"factory": f"{HERE}:jitter"}, "does not take these arguments: missing a required argument: 'amount'"),
        ({"factory": f"{HERE}:text"}, "returned str, which cannot be called"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:30],
)
def test_mistakes_are_named_before_data_are_read(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        check(EXPERIMENT.but({"augment": (Transform(**fields), HorizontalFlip())}))
    assert all(line.startswith("augment") for line in caught.value.lines)
