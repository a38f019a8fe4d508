"""A home with two runs on a folder of images, for the tests of predict and evaluate."""

import pytest
from PIL import Image

from core.launch import Launch
from core.losses import BinaryCrossEntropy
from core.models import MLP
from core.runs.train import train
from data import Digits, ImageFolder, ImageTable
from experiments.tiny import EXPERIMENT
from tests.support.samples import table_of_labels, tree

FIELDS = {"data": ImageFolder(size=16), "model": MLP(hidden=(8,)), "augment": (), "epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    """(home, folder of images, declaration, launch options)"""
    home, source = tmp_path_factory.mktemp("home"), tree(tmp_path_factory.mktemp("data") / "set", each=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        yield home, source, EXPERIMENT.but(FIELDS), Launch(mlflow=False, threads=1, root=source)


@pytest.fixture(scope="module")
def lab(image_folder):
    """(home, folder of images, two runs)"""
    home, source, declared, launch = image_folder
    return home, source, [train(declared.but({"seed": seed}), launch) for seed in (0, 1)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(home, folder of the run's own test images in class folders, a run on gray images)"""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        run = train(EXPERIMENT.but({"limit": 300, "epochs": 2}), Launch(mlflow=False, threads=1))
        test = Digits().load(None).limited(300).test
        for row, label in zip(test.rows.tolist(), test.targets.tolist(), strict=True):
            (folder / str(label)).mkdir(exist_ok=True)
            Image.fromarray(test.pixels[row, ..., 0]).save(folder / str(label) / f"{row:04}.png")
        yield home, folder, run


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """(home, table of images with several labels, a run on them)"""
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("table")
    table = table_of_labels(folder)
    fields = {"data": ImageTable(size=8, multi_label=True), "loss": BinaryCrossEntropy(), "monitor": "val/map"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        launch = Launch(mlflow=False, threads=1, root=table)
        yield home, table, train(EXPERIMENT.but(fields | {"epochs": 2}), launch)
