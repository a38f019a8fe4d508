"""The parent of folds answers as its finished runs together."""

import csv
import io
import re
import shutil

import numpy as np
import pytest

from core.cli.metric import main as metric
from core.common.errors import UserError
from core.common.statistics import mean_and_interval
from core.inference.answers import name_of, read, read_file
from core.loading.folds import Folds
from core.metrics.by_name import compute
from core.runs.members import members
from core.runs.seeds import train_folds
from core.runs.trained import Run
from data.predict.evaluate import main as evaluate
from data.predict.predict import main as predict


@pytest.fixture(scope="module")
def trained(image_folder):
    """(home, folder of images, result)"""
    home, source, declared, launch = image_folder
    return home, source, train_folds(declared, Folds(2), launch, "tiny")


@pytest.fixture
def folds(trained, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(trained[0]))
    return trained[2]


def test_a_parent_predicts_the_mean_of_its_runs(folds, trained, capsys):
    place = str(trained[1] / "test")
    each = []
    for names in ([folds.parent.id], [run.id for run in folds.runs]):
        assert predict([*names, place]) == 0
        each.append(capsys.readouterr().out)
    assert each[0] == each[1]
    assert len(list(csv.reader(io.StringIO(each[0])))) == 13
    assert [run.id for run in members([folds.parent.id])] == sorted(run.id for run in folds.runs)


def test_a_parent_is_evaluated_with_its_runs(folds, trained, capsys):
    assert evaluate([folds.parent.id, "--metric", "nll"]) == 0
    said = capsys.readouterr().out
    every = [read(run, "test") for run in folds.runs]
    scores = np.mean([each.probabilities for each in every], axis=0)
    nll = -np.log(scores[np.arange(len(scores)), every[0].targets]).mean()
    assert "mean of 2 runs: 12 images" in said
    assert float(re.findall(r"nll +(\d\.\d+)", said)[-1]) == pytest.approx(nll, abs=1e-4)
    assert evaluate([folds.parent.id, "--root", str(trained[1]), "--split", "test", "--metric", "nll"]) == 0
    again = capsys.readouterr().out
    assert float(re.findall(r"nll +(\d\.\d+)", again)[-1]) == pytest.approx(nll, abs=2e-3)
    assert evaluate([folds.parent.id, "--split", "val"]) == 0
    assert "no mean of 2 runs: the runs have answered different val images" in capsys.readouterr().out


def test_metrics_of_folds_have_the_corrected_interval(folds, capsys):
    assert metric([folds.parent.id, "--metric", "nll", "--split", "val"]) == 0
    values = [compute(read(run, "val"), "nll") for run in folds.runs]
    mean, _, half = mean_and_interval(values, 1.0)
    assert f"val/nll: {mean:.6f} +- {half:.6f}" in capsys.readouterr().out
    assert metric([folds.parent.id, "--metric", "nll", "--split", "oof"]) == 0
    pooled = compute(read_file(folds.parent.artifact(name_of("oof"))), "nll")
    assert f"{pooled:.6f}" in capsys.readouterr().out
    with pytest.raises(UserError, match="has no answers for oof; the parent of folds has them, once all folds"):
        metric([folds.runs[0].id, "--metric", "nll", "--split", "oof"])


def test_a_parent_without_finished_runs_is_refused(folds, home):
    copy = Run(home / "mlruns" / "runs" / folds.parent.id)
    shutil.copytree(folds.parent.folder, copy.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        with pytest.raises(UserError, match="none of its runs has finished"):
            predict([copy.id, "x.png"])
