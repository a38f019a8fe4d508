"""`labbook evaluate`: metrics with intervals, on the run's own test images and on other labeled sets."""

import json
import re
import shutil

import numpy as np
import pytest

from core.common.errors import UserError
from core.common.statistics import wilson
from core.inference.answers import read_file
from core.record import journal
from data.predict.evaluate import main
from data.reading.decode import decode


@pytest.fixture
def run(lab, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(lab[0]))
    return lab[2][0]


def test_its_own_test_images_have_the_recorded_accuracy_with_wilsons_interval(run, capsys):
    assert main([run.id]) == 0
    said = capsys.readouterr().out
    n, accuracy = run.record["data"]["test"], run.metrics["test/accuracy"]
    low, high = wilson(np.array(round(accuracy * n)), np.array(n))
    assert re.search(rf"accuracy +{accuracy:.4f} +{low:.4f} to {high:.4f}", said)
    assert f"{n} images" in said


def test_another_set_is_matched_by_class_name_and_recorded(run, lab, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(lab[1] / "train" / "dog", other / "dog")
    shutil.copytree(lab[1] / "train" / "cat", other / "Katze")
    shutil.copytree(lab[1] / "test" / "cat", other / "owl")
    mapping = tmp_path / "map.csv"
    mapping.write_text("Katze,cat\n")
    assert main([run.id, "--root", str(other), "--map", str(mapping)]) == 0
    said = capsys.readouterr().out
    assert f"left out: 6 images of owl, which {run.id} does not know" in said
    assert re.search(r"on other: 12 images\n", said)
    (recorded,) = (run.folder / "artifacts/evaluations").glob("other-all-*.json")
    facts = json.loads(recorded.read_text())
    assert facts["images"] == 12
    answers = read_file(recorded.with_suffix(".parquet"))
    pixels = [decode(path.read_bytes(), "", 16) for name in ("dog", "Katze") for path in (other / name).iterdir()]
    labels = [name for name in ("dog", "cat") for _ in range(6)]
    predicted = run.predict(np.stack(pixels)).argmax(axis=1)
    right = np.mean([run.record["data"]["classes"][at] == name for at, name in zip(predicted, labels, strict=True)])
    assert facts["metrics"]["accuracy"]["value"] == pytest.approx(right)
    assert (answers.predicted == answers.targets).mean() == pytest.approx(right)
    kept = {event["path"] for _, event in journal.read(run.folder) if event["event"] == "artifact"}
    assert {f"evaluations/{recorded.name}", f"evaluations/{recorded.stem}.parquet"} <= kept
    assert run.status == "FINISHED"


def test_what_cannot_be_evaluated_is_refused(run, lab, tmp_path):
    other = tmp_path / "other"
    for name in ("owl", "ant"):
        shutil.copytree(lab[1] / "train" / "dog", other / name)
    for words, message in (
        ([run.id, "--root", str(other)], "knows none of the classes ant, owl; it knows cat, dog; translate them"),
        ([run.id, "--root", str(tmp_path / "none")], "none"),
        ([run.id, "--split", "all"], "need --root PATH"),
        ([run.id, "--root", str(other), "--map", str(tmp_path / "no.csv")], r"--map .*no\.csv: "),
        ([run.id, "--metric", "acuracy"], "unknown metric; did you mean accuracy"),
    ):
        with pytest.raises(UserError, match=message):
            main(words)
