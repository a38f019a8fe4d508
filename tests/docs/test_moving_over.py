"""A user of lightning-hydra-template's MNIST example moves over as docs/migrating.md says, on small files of MNIST."""

import importlib
import sys

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import experiments
from core.cli.main import VERBS, experiment, run
from core.common import paths
from core.runs.trained import load
from tests.support.documentation import ROOT, blocks, commands

PAGE = (ROOT / "docs" / "migrating.md").read_text()
SECTION = PAGE.partition("## The MNIST example of lightning-hydra-template")[2].partition("\n## ")[0]
LENGTHS = [150, 25, 25]


def idx(array):
    sides = b"".join(side.to_bytes(4, "big") for side in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sides + array.tobytes()


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The files of the page in a folder of experiments, and MNIST where the template keeps it: (package, its root)."""
    for block in blocks(SECTION, "python"):
        path = tmp_path / block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code + "\n")
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path / "experiments")])
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for prefix, count in (("train", 160), ("t10k", 40)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = chance.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        images[np.arange(count), :, labels * 2] = 250  # a column for each digit
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
    yield "experiments.template_mnist", tmp_path / "data"
    for name in [name for name in sys.modules if name.startswith("experiments.template_mnist")]:
        del sys.modules[name]


def test_its_steps_lead_to_runs_on_the_same_images_as_the_templates(written, tmp_path, monkeypatch, capsys):
    package, root = written
    monkeypatch.chdir(tmp_path)
    found = [words for block in blocks(SECTION, "bash") for words in commands(block)]
    assert [words[0] for words in found] == ["python", "python", "python", "labbook"]
    small = ["--data.arguments", f'{{"number": 0, "lengths": {LENGTHS}}}']
    quick = ["--mlflow", "false", "--device", "cpu", "--threads", "1"]
    for words in found:
        if words[0] == "labbook":
            assert run(words[1], words[2:], VERBS) == 0
            continue
        with pytest.raises(SystemExit) as ended:
            experiment(package, [*words[3:], *small, *([] if "look" in words else quick)])
        assert ended.value.code == 0, capsys.readouterr().err
    assert (tmp_path / "look.png").exists()
    records = sorted(paths.runs().glob("**/record.json"), key=lambda path: path.stat().st_mtime)
    runs = [load(path.parent.name if path.parent.name != "artifacts" else path.parents[1].name) for path in records]
    assert [each.experiment.model.lin1_size for each in runs] == [64, 256]
    assert runs[1].metrics["test/accuracy"] > 0.9

    # what the template's own loader gives
    data = importlib.import_module(f"{package}.data")
    theirs = v2.Normalize((0.1307,), (0.3081,))
    splits = runs[0].own_splits()
    for number, images in enumerate((splits.train, splits.val, splits.test)):
        part = data.part(str(root), number, LENGTHS)
        assert len(part) == len(images) == LENGTHS[number]
        for at in (0, len(part) - 1):
            image, label = part[at]
            ours = torch.from_numpy(images.pixels[images.rows[at]]).movedim(-1, 0) / 255
            assert label == images.targets[at]
            torch.testing.assert_close((ours - 0.1307) / 0.3081, theirs(image))
    assert runs[0].record["data"]["mean"] == [0.1307]
    assert runs[0].record["data"]["std"] == [0.3081]
