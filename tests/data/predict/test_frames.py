"""Runs on images that are not square, or whose center is cropped with another interpolation: whatever reads new images
reads them as the run's own."""

import csv
import io
import json

import numpy as np
import pytest

from core.export import latency, measured
from core.export.export import Plan, export
from core.export.formats import FORMATS
from core.export.script import answers as script_answers
from core.runs.train import train
from core.runs.trained import load
from data import ImageFolder
from data.check.check import main as check_verb
from data.predict.conversion import decoder, facts
from data.predict.evaluate import main as evaluate_verb
from data.predict.predict import main as predict_verb
from data.reading.decode import decode
from tests.support.samples import encoded, noise

FRAMES = {
    "wide": {"size": "12x20", "interpolation": "bicubic"},
    "center": {"size": 16, "interpolation": "bicubic", "resize_size": 24},
}


@pytest.fixture(scope="module", params=FRAMES)
def trained(request, image_folder):
    home, _, declared, launch = image_folder
    data = ImageFolder(**FRAMES[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        return home, train(declared.but({"data": data}), launch).id


@pytest.fixture
def run(trained, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(trained[0]))
    return load(trained[1])


@pytest.fixture
def files(tmp_path):
    """Images that are not square either."""
    made = {name: tmp_path / "new" / f"{name}.png" for name in ("wide", "tall", "large")}
    (tmp_path / "new").mkdir()
    for path, sides in zip(made.values(), ((30, 70), (50, 20), (300, 410)), strict=True):
        path.write_bytes(encoded(noise(sides[0], *sides)))
    return list(made.values())


def test_predict_in_python_and_on_the_command_line(run, files, capsys):
    frame = run.experiment.data.frame
    expected = run.predict(np.stack([decode(path.read_bytes(), "", frame) for path in files]))
    np.testing.assert_array_equal(run.predict(files), expected)
    assert np.ptp(expected[:, 0]) > 0
    capsys.readouterr()
    assert predict_verb([run.id, *map(str, files)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected.max(axis=1), atol=1e-5)


def test_another_set_is_evaluated_and_checked_on_such_images(run, image_folder, capsys):
    source = image_folder[1]
    assert evaluate_verb([run.id, "--root", str(source), "--split", "test"]) == 0
    (recorded,) = (run.folder / "artifacts" / "evaluations").glob("*.json")
    assert json.loads(recorded.read_text())["metrics"]["accuracy"]["value"] == run.metrics["test/accuracy"]
    assert check_verb([str(source), "--run", run.id]) in (0, 1)
    assert run.id in capsys.readouterr().out


def test_the_script_of_an_export(run, files, tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "SLOWER", 0.0)
    monkeypatch.setattr(latency, "CALLS", 20)
    plan = Plan([FORMATS["onnx"]], tmp_path, seconds=0.0)
    found = export(run, run.own_splits(), decoder(run), facts(run), plan, lambda text: None)
    assert not found.formats[0].refused
    np.testing.assert_allclose(script_answers(tmp_path / "onnx", files), run.predict(files), atol=1e-5)
