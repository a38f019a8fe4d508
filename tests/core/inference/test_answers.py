"""The answers of a run: what is on record after training, what `labbook metric` and `labbook answers` make of it."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

from core.cli import answers as answers_verb
from core.cli.metric import main as metric
from core.common.errors import UserError
from core.inference.answers import ask, name_of, read, read_file, write
from core.inference.network import network_of
from core.launch import Launch
from core.loading.batches import Batch
from core.metrics.answers import bounded, identity
from core.metrics.by_name import compute
from core.runs.seeds import train_seeds
from core.runs.train import train
from core.training.collect import Collector
from experiments.tiny import EXPERIMENT
from tests.support.processes import COMMON, PROGRAM, start
from tests.support.runs import only_run

QUIET = Launch(mlflow=False, threads=1)
SHORT = EXPERIMENT.but({"epochs": 2, "limit": 300})


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        yield home, train_seeds(SHORT.but({"tta": "flip"}), 2, QUIET, "tiny")


@pytest.fixture
def at_home(seeds, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(seeds[0]))
    return seeds[1]


def test_metrics_of_the_answers_are_those_on_record(at_home):
    for run in at_home.runs:
        answers = read(run, "test")
        assert len(answers) == run.record["data"]["test"]
        assert answers.classes == tuple(run.record["data"]["classes"])
        for name in ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "top5"):
            assert compute(answers, name) == pytest.approx(run.metrics[f"test/{name}"], abs=1e-9), name
        for name in ("nll", "ece"):  # of float16
            assert compute(answers, name) == pytest.approx(run.metrics[f"test/{name}"], abs=1e-3), name
        assert (run.folder / "artifacts" / name_of("test")).stat().st_size < 40 * len(answers) + 8_000


def test_answers_are_in_the_order_of_the_split_and_name_images_by_their_content(at_home):
    one, other = (read(run, "val") for run in at_home.runs)
    images = SHORT.data.load(None).val
    assert one.ids.tolist() == other.ids.tolist()
    assert one.targets.tolist() == images.targets.tolist()
    assert not np.array_equal(one.logits, other.logits)
    pixels = images.pixels[images.rows]
    predicted = at_home.runs[0].predict(pixels)
    scores = np.exp(one.logits) / np.exp(one.logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, predicted, atol=2e-3)


def test_metrics_of_several_runs_are_printed_with_their_mean(at_home, capsys):
    assert metric([at_home.parent.id, "--metric", "accuracy", "--metric", "auroc"]) == 0
    said = capsys.readouterr().out
    for run in at_home.runs:
        assert re.search(rf"^{run.id} +{run.metrics['test/accuracy']:.6f} +0\.\d+$", said, re.MULTILINE)
    mean = np.mean([run.metrics["test/accuracy"] for run in at_home.runs])
    assert f"test/accuracy: {mean:.6f} +- " in said
    words = [at_home.runs[0].id, "--metric", "MulticlassF1Score", "--argument"]
    assert metric([*words, "average=micro", "--split", "val"]) == 0
    with pytest.raises(UserError, match="--argument average: expected NAME=VALUE"):
        metric([*words, "average"])
    with pytest.raises(UserError, match="run not found"):
        metric(["nothing", "--metric", "accuracy"])


def test_answers_of_an_older_run_are_computed_from_its_network(home, capsys):
    run = train(SHORT, QUIET)
    before = read(run, "test")
    (run.folder / "artifacts" / name_of("test")).unlink()
    with pytest.raises(UserError, match=f"has no answers for test; labbook answers {run.id} computes them"):
        read(run, "test")
    assert answers_verb.main([run.id]) == 0
    after = read(run, "test")
    assert after.ids.tolist() == before.ids.tolist()
    np.testing.assert_allclose(after.logits, before.logits, atol=2e-2)
    (run.folder / "artifacts" / name_of("test")).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="its content does not match its digest"):
        read(run, "test")


def test_answers_of_two_processes_are_those_of_all_images(forge, home):
    first, second = start(forge, PROGRAM, "--epochs", "1", "--metrics", "AUROC", *COMMON)
    assert (first.wait(), second.wait()) == (0, 0), first.text + second.text
    run = only_run(home)
    answers = read(run, "test")
    images = run.experiment.data.load(None).test
    assert answers.targets.tolist() == images.targets.tolist()
    assert compute(answers, "accuracy") == pytest.approx(run.metrics["test/accuracy"])
    assert compute(answers, "auroc") == pytest.approx(run.metrics["test/auroc"], abs=1e-3)
    assert compute(read(run, "val"), "auroc") == pytest.approx(run.history["val/auroc"][1], abs=1e-3)


def test_answers_collected_in_any_order_are_in_that_of_the_split():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    collector = Collector("val", ("a", "b"))
    for index in ([3, 1], [4], [0, 2]):
        logits = torch.tensor([[0.0, float(place)] for place in index])
        targets = torch.tensor([place % 2 for place in index])
        collector(Batch(torch.from_numpy(pixels[index]), targets, targets, torch.tensor(index)), logits)
    found = collector.answers()
    assert found.ids.tolist() == [identity(image) for image in pixels]
    assert found.targets.tolist() == [0, 1, 0, 1, 0]
    assert (-found.logits[1:, 0]).tolist() == [1, 2, 3, 4]


def test_groups_are_on_record_and_older_files_have_none(tmp_path, at_home):
    older = read(at_home.runs[0], "val")
    assert older.groups is None
    names = np.array([f"patient {i % 7}" for i in range(len(older))])
    write(tmp_path / "a.parquet", replace(older, groups=names), "run")
    again = read_file(tmp_path / "a.parquet")
    assert again.groups.tolist() == names.tolist()
    assert again.in_order(np.array([3, 0])).groups.tolist() == ["patient 3", "patient 0"]
    assert parquet.read_schema(tmp_path / "a.parquet").names[-1] == "group"
    images = SHORT.data.load(None).val.take(np.arange(5))
    asked = ask(network_of(at_home.runs[0], "cpu"), replace(images, groups=names[:5]), "val", older.classes)
    assert asked.groups.tolist() == names[:5].tolist()


def test_logits_beyond_half_precision_stay_finite(tmp_path):
    logits = np.array([[1e6, 0.0], [0.0, 5.0]], np.float32)
    found = bounded("val", ("a", "b"), np.array(["x", "y"]), np.array([1, 1]), logits)
    write(tmp_path / "a.parquet", found, "run")
    again = read_file(tmp_path / "a.parquet")
    assert np.isfinite(again.logits).all()
    assert again.predicted.tolist() == [0, 1]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_reading_answers_starts_no_thread(tmp_path):
    """A thread of pyarrow may abort a process that ends soon after, with exit status 134 instead of a message."""
    few = bounded("val", ("a", "b"), np.array(["x", "y"]), np.array([0, 1]), np.eye(2, dtype=np.float32))
    path = tmp_path / "val.parquet"
    write(path, few, "run")
    code = f"""
import os, pathlib, pyarrow.parquet
from core.inference.answers import read_file
before = len(os.listdir("/proc/self/task"))
read_file(pathlib.Path({str(path)!r}))
print(len(os.listdir("/proc/self/task")) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
