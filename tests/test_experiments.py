"""Every experiment goes through its whole pipeline as a program, up to MLflow."""

import importlib
import io
import tarfile
from functools import cache

import numpy as np
import pytest

from core.record.run import RECORD
from data import Mnist
from tests.support.shipped import SHIPPED

EXPERIMENTS = [entry.name for entry in SHIPPED]


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """CIFAR-10 in miniature: ten classes of 32x32 pictures, as a tar of train/<class>/* and test/<class>/*."""
    from PIL import Image

    path = tmp_path_factory.mktemp("data") / "tree.tar"
    random = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for split, count in (("train", 20), ("test", 4)):
            for label in range(10):
                for number in range(count):
                    picture = io.BytesIO()
                    pixels = random.integers(0, 26, (32, 32, 3)) + 25 * label
                    Image.fromarray(pixels.astype(np.uint8)).save(picture, "PNG")
                    member = tarfile.TarInfo(f"{split}/class{label}/{number}.png")
                    member.size = picture.tell()
                    tar.addfile(member, io.BytesIO(picture.getvalue()))
    return path


@pytest.fixture(scope="module")
def smoked(forge, tree, tmp_path_factory):
    """Trains an experiment by name, once, in a home that all share: (the home, exit status, output)."""
    home = tmp_path_factory.mktemp("home")

    @cache
    def train(name):
        declared = importlib.import_module(f"experiments.{name}").EXPERIMENT
        root = [] if declared.data.embedded else ["--root", str(tree)]
        root = ["--variant", "digits"] if isinstance(declared.data, Mnist) else root  # which has a format of its own
        # no weights to fetch, and photographs as small as the tree's
        drawn = ["--model.weights", "none"] if declared.model.weights else []
        small = ["--data.size", "32"] if "size" in type(declared.data).model_fields else []
        small += ["--model.resize", "32"] if getattr(declared.model, "resize", None) else []
        words = (f"experiments.{name}", "--smoke", "--mlflow", "false", *root, *drawn, *small)
        return home, *forge.run(*words, env={"LABBOOK_HOME": str(home)})

    return train


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke(name, smoked):
    _, status, text = smoked(name)
    assert status == 0, text


def test_all_of_them_are_whole_in_mlflow(smoked, forge):
    from mlflow import MlflowClient

    (home,) = {smoked(name)[0] for name in EXPERIMENTS}
    status, text = forge.run("core", "sync", env={"LABBOOK_HOME": str(home)})
    assert status == 0, text
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    experiments = {experiment.name: experiment for experiment in client.search_experiments()}
    for name in EXPERIMENTS:
        (run,) = client.search_runs([experiments[name].experiment_id])
        assert run.info.status == "FINISHED"
        assert run.data.tags["smoke"] == "true"
        declared = importlib.import_module(f"experiments.{name}").EXPERIMENT
        assert run.data.params["model"] == type(declared.model).__name__
        for metric in ("train/loss", "val/accuracy", "val/top5", "step/loss", "step/grad_norm", "lr", "test/accuracy"):
            assert metric in run.data.metrics, name
        kept = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert {RECORD, "learning_curves.png", "confusion_matrix.png", "confusion_matrix.csv", "weights"} <= kept
        assert run.inputs.dataset_inputs[0].dataset.name
        assert not run.info.artifact_uri.startswith("mlflow-artifacts:")


def listed(forge):
    """Name of each experiment -> the words of its line in the listing, whatever its widths."""
    status, text = forge.run("experiments", env={"COLUMNS": "200"})
    assert status == 0, text
    lines = [line.split() for line in text.splitlines()]
    return {name: next(words for words in lines if {name, f"experiments.{name}"} & {*words}) for name in EXPERIMENTS}


def test_the_listing_shows_every_experiment_and_the_best_on_record(forge, home):
    before = listed(forge)
    assert set(before) == set(EXPERIMENTS)
    assert forge.run("experiments.digits_cnn", "--epochs", "1", "--mlflow", "false")[0] == 0
    after = listed(forge)
    assert "".join(after["digits_cnn"]).count("%") > "".join(before["digits_cnn"]).count("%")
