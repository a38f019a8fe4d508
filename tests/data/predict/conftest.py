"""A home with two runs on a folder of images, for the tests of predict and evaluate."""

import pytest

from core.launch import Launch
from core.models import MLP
from core.runs.train import train
from data import ImageFolder
from experiments.tiny import EXPERIMENT
from tests.support.samples import tree

FIELDS = {"data": ImageFolder(size=16), "model": MLP(hidden=(8,)), "augment": (), "epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(home, folder of images, two runs)"""
    home, source = tmp_path_factory.mktemp("home"), tree(tmp_path_factory.mktemp("data") / "set", each=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        launch = Launch(mlflow=False, threads=1, root=source)
        yield home, source, [train(EXPERIMENT.but(FIELDS | {"seed": seed}), launch) for seed in (0, 1)]
