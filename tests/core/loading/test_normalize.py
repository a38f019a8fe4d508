"""What images are normalized with: one declaration, the same for training, prediction, report, serving."""

import numpy as np
import pytest
import torch

from core.common.errors import UserError
from core.export.graph import exported
from core.launch import Launch
from core.loading.normalize import IMAGENET, WAYS, statistics
from core.methods import Distill
from core.models import SmallCNN
from core.runs.train import train
from core.training.assemble import assemble
from tests.support.loop import BASE, Tiny
from tests.support.networks import Others

QUIET = Launch(mlflow=False, threads=1)
SHORT = BASE.but({"model": SmallCNN(widths=(4,)), "augment": (), "epochs": 1})
PIXELS = np.random.default_rng(3).integers(0, 256, (5, 6, 6, 3)).astype(np.uint8)


def by_hand(how, pixels):
    """float64 [N, H, W, C], normalized as each name says."""
    scaled = pixels / 255
    if how == "image":
        return (scaled - scaled.mean((1, 2, 3), keepdims=True)) / scaled.std((1, 2, 3), keepdims=True)
    if how == "image_channels":
        return (scaled - scaled.mean((1, 2), keepdims=True)) / scaled.std((1, 2), keepdims=True)
    if how == "data":
        train = Tiny().load().train
        seen = train.pixels[train.rows] / 255
        return (scaled - seen.mean((0, 1, 2))) / seen.std((0, 1, 2))
    known = {"imagenet": IMAGENET, "inception": ((0.5,) * 3, (0.5,) * 3), "unit": (0, 1)}
    mean, std = known.get(how, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    return (scaled - mean) / std


@pytest.mark.parametrize("how", [*WAYS, "0.1,0.2,0.3/0.4,0.5,0.6"])
def test_training_prediction_serving_and_report_see_the_same(how, home):
    run = train(SHORT.but({"normalize": how}), QUIET)
    images = torch.tensor(by_hand(how, PIXELS), dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = run.model(images).softmax(dim=1)
    torch.testing.assert_close(torch.from_numpy(run.predict(PIXELS)), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exported(run).module()(torch.from_numpy(PIXELS)), expected, rtol=1e-4, atol=1e-5)
    splits = Tiny().load()
    answers = run.predict(splits.test.pixels[splits.test.rows])
    assert run.metrics["test/accuracy"] == (answers.argmax(1) == splits.test.targets).mean()
    assert (run.folder / "artifacts" / "report.html").exists()
    assert run.params["normalize"] == how
    assert (run.folder / "artifacts" / "look.png").exists()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("imagnet", r"should be one of data, .*, or MEAN/STD in numbers; did you mean imagenet"),
        ("0.1/0", "as many means, 0 to 1, as positive deviations"),
        ("127/58", "of pixels of 0 to 1"),
        ("0.1,0.2/0.3", "as many means"),
        ("a/b", "should be MEAN/STD in numbers"),
    ],
)
def test_what_is_no_normalization_is_refused(how, message):
    with pytest.raises(UserError, match=f"normalize: .*{message}"):
        BASE.but({"normalize": how})


def test_one_number_counts_for_all_channels_and_others_must_fit():
    train = Tiny().load().train
    assert statistics("0.5/0.25", train) == ((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(ValueError, match="normalize: 2 means for images of 3 channels"):
        statistics("0.5,0.5/0.2,0.2", train)


@pytest.mark.parametrize("how", ["image", "image_channels"])
def test_an_image_of_one_color_becomes_zeros(how):
    parts = assemble(SHORT.but({"normalize": how}), Tiny().load(), Launch(device="cpu"))
    batch = next(iter(parts.train.epoch(0)))
    ready = parts.setup.normalize(batch._replace(images=torch.full_like(batch.images, 200))).images
    assert torch.equal(ready, torch.zeros_like(ready))


def test_gray_images_take_the_mean_of_imagenets_channels_and_other_numbers_are_refused():
    gray = Others().load().train
    mean, std = statistics("imagenet", gray)
    assert mean == pytest.approx((0.449,))
    assert std == pytest.approx((0.226,))
    with pytest.raises(ValueError, match="imagenet needs images of 3 channels, these have 2"):
        statistics("imagenet", type(gray)(np.zeros((1, 4, 4, 2), np.uint8), gray.rows[:1], gray.targets[:1]))


def test_a_teacher_normalized_otherwise_is_converted_or_refused(home):
    teacher = train(SHORT.but({"normalize": "imagenet"}), QUIET)
    parts = assemble(SHORT.but({"method": Distill(teacher=teacher.id)}), Tiny().load(), Launch(device="cpu"))
    scale, shift = parts.setup.method.teachers[0].renormalize
    own, theirs = (torch.tensor(by_hand(how, PIXELS)).permute(0, 3, 1, 2) for how in ("data", "imagenet"))
    torch.testing.assert_close((own * scale + shift).float(), theirs.float(), rtol=1e-4, atol=1e-4)
    pupil = SHORT.but({"method": Distill(teacher=teacher.id), "normalize": "image"})
    with pytest.raises(UserError, match="must use the same normalize"):
        assemble(pupil, Tiny().load(), Launch(device="cpu"))
