"""The contact sheet: what it shows is what the network gets in its first step."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from core.augment import HorizontalFlip, Mixup, RandAugment, RandomCrop
from core.cli.look import look
from core.common import plots
from core.common.errors import UserError
from core.diagnostics.contact_sheet import LOOK, pixels
from core.launch import Launch
from core.loading.batches import Batch
from core.loading.normalize import normalizer
from core.metrics.task import SINGLE_LABEL
from core.runs.train import train
from experiments.tiny import EXPERIMENT

OFFLINE = Launch(mlflow=False, threads=1)
SHORT = EXPERIMENT.but({"epochs": 1, "limit": 100})


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_pixels_come_back_from_normalized_images(channels):
    images = torch.randint(0, 256, (6, 8, 7, channels), dtype=torch.uint8)
    mean, std = [0.3, 0.4, 0.5, 0.6, 0.7][:channels], [0.2, 0.3, 0.25, 0.2, 0.1][:channels]
    batch = normalizer(mean, std, torch.device("cpu"))(Batch(images, *[torch.empty(0)] * 3))
    assert np.array_equal(pixels(batch.images, mean, std), images.numpy())
    beyond = pixels(torch.full((1, channels, 2, 2), 99.0), mean, std)
    assert (beyond == 255).all()


def test_titles_name_the_class_or_the_shares():
    classes = ["cat", "dog", "owl"]
    assert SINGLE_LABEL.titles(torch.tensor([2, 0]), classes) == ["owl", "cat"]
    mixed = torch.tensor([[0.7, 0.3, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    assert SINGLE_LABEL.titles(mixed, classes) == ["cat 0.70 + dog 0.30", "cat 1.00", "owl 0.50 + dog 0.30"]


@pytest.mark.parametrize(
    "shape", [(16, 8, 8, 1), (3, 32, 20, 3), (5, 300, 400, 3), (1, 1, 1, 4), (2, 9, 9, 2)], ids=str
)
def test_a_sheet_of_any_images(shape, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    plots.contact_sheet(images, ["a very long name of a class " * 3] * shape[0], tmp_path / "x.png")
    picture = Image.open(tmp_path / "x.png")
    columns, rows = min(shape[0], 4), -(-shape[0] // 4)
    assert picture.width == 8 + columns * 136
    assert picture.height >= rows * (16 + 8)
    assert picture.width < 600


def test_tiles_are_the_pixels_enlarged(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    plots.contact_sheet(images, ["x"] * 6, tmp_path / "x.png")
    sheet = np.asarray(Image.open(tmp_path / "x.png"))
    for place, image in enumerate(images):
        top, left = 8 + place // 4 * (128 + 16 + 8), 8 + place % 4 * 136
        assert np.array_equal(sheet[top : top + 128 : 16, left : left + 128 : 16], image)


@pytest.mark.parametrize(
    "changes",
    [{}, {"limit": 400, "long_tail.factor": 4, "label_noise.fraction": 0.5, "sampling": "ClassWeighted"}],
    ids=["all", "studied"],
)
def test_a_run_keeps_one_that_shows_the_first_batch(changes, monkeypatch):
    from core.training import loop

    shown, stepped, advance = [], [], loop.advance

    def keep(pixels, titles, path):
        if path.name == LOOK:  # a report has sheets of its own
            shown.append((pixels, titles))
        path.touch()

    def step(setup, state, trained, batch, clock, *more):
        stepped.append(batch)
        advance(setup, state, trained, batch, clock, *more)

    monkeypatch.setattr(plots, "contact_sheet", keep)
    monkeypatch.setattr(loop, "advance", step)
    steps = (RandAugment(), RandomCrop(padding=1), HorizontalFlip(), Mixup(alpha=1.0))
    run = train(SHORT.but({"augment": steps} | changes), OFFLINE)
    assert (run.folder / "artifacts" / LOOK).exists()
    data = run.record["data"]
    assert len(shown) == 1
    assert np.array_equal(shown[0][0], pixels(stepped[0].images[:16], data["mean"], data["std"]))
    assert shown[0][1] == SINGLE_LABEL.titles(stepped[0].targets[:16], data["classes"])
    assert any(" + " in title for title in shown[0][1])


def test_it_is_a_small_png():
    run = train(SHORT, OFFLINE)
    path = run.folder / "artifacts" / LOOK
    assert Image.open(path).format == "PNG"
    assert path.stat().st_size < 100_000


def test_small_batches_are_shown_whole(tmp_path):
    look(SHORT.but({"batch_size": 6}), OFFLINE, tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").height == 8 + 2 * (128 + 16 + 8)


def test_what_cannot_be_trained_is_reported(tmp_path):
    with pytest.raises(UserError, match="padding 8"):
        look(SHORT.but({"augment": (RandomCrop(padding=8),)}), OFFLINE, tmp_path / "x.png")


def test_the_sheet_needs_no_matplotlib(tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path; from core.common import plots\n"
        f"plots.contact_sheet(np.zeros((2, 8, 8, 3), np.uint8), ['a', 'b'], Path({str(tmp_path / 'x.png')!r}))\n"
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["tiny", "--augment.random_crop.padding", "2", "--to", "x.png"], 0, "x.png"),
        (["tiny", "--variant", "plain"], 0, "look_tiny.png"),
        (["tinny"], 2, "unknown experiment; did you mean tiny"),
        ([], 2, "EXPERIMENT is missing"),
        (["tiny", "--help"], 0, "usage: python -m experiments.tiny"),
        (["tiny", "--to"], 2, "--to: needs the path"),
        (["tiny", "--augment.random_crop.paddin", "2"], 2, "padding"),
    ],
    ids=lambda value: "_".join(value)[:30] if isinstance(value, list) else "",
)
def test_the_command(words, status, message, tmp_path, monkeypatch, capsys):
    from core.cli.main import labbook as main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["labbook", "look", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == status
    assert message in out + err
    assert len(list(tmp_path.glob("*.png"))) == (status == 0 and "--help" not in words)
