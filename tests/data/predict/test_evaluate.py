"""`labbook evaluate`: metrics with intervals, on the run's own test images and on other labeled sets."""

import json
import re
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from core.augment import frost
from core.common.errors import UserError
from core.common.files import sha256_of
from core.common.statistics import wilson
from core.inference.answers import read, read_file
from core.inference.network import network_of
from core.launch import Launch
from core.record import journal
from core.record.lock import locked
from data import Digits, ImageFolder
from data.predict import evaluate
from data.predict.corrupted import measure
from data.predict.evaluate import main
from data.reading.decode import decode
from tests.support import frost_wheel
from tests.support.foreign import RAW


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


def test_several_runs_are_followed_by_their_mean_answer(run, lab, capsys):
    runs = lab[2]
    images = ImageFolder(size=16).load(lab[1])
    test = images.test
    mean = np.mean([each.predict(test) for each in runs], axis=0)
    right = (mean.argmax(axis=1) == test.targets).mean()
    nll = -np.log(mean[np.arange(len(test)), test.targets]).mean()
    for words in ([], ["--root", str(lab[1]), "--split", "test"]):
        assert main([*(each.id for each in runs), *words, "--metric", "accuracy", "--metric", "nll"]) == 0
        said = capsys.readouterr().out.partition("mean of 2 runs: 12 images")[2]
        assert re.search(rf"accuracy +{right:.4f} ", said)
        assert float(re.search(r"nll +([\d.]+) ", said)[1]) == pytest.approx(nll, abs=2e-3)  # of half precision


def test_runs_that_cannot_answer_together_have_no_mean(run, lab, capsys, monkeypatch):
    other = read(run, "test")
    answers = {run.id: other, lab[2][1].id: replace(other, ids=other.ids[::-1])}
    monkeypatch.setattr(evaluate, "read", lambda run, split: answers[run.id])
    assert main([*answers, "--metric", "accuracy"]) == 0
    assert "no mean of 2 runs: the runs have answered different test images" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_its_own_images_are_read_again_and_the_answers_recorded(run, precision, capsys):
    assert main([run.id, "--precision", precision, "--device", "cpu"]) == 0
    assert re.search(rf"{run.id} on \S+ in {precision}: ", capsys.readouterr().out)
    (recorded,) = (run.folder / "artifacts/evaluations").glob(f"*-test-*-{precision}.json")
    assert json.loads(recorded.read_text())["precision"] == precision
    answers, before = read_file(recorded.with_suffix(".parquet")), read(run, "test")
    assert answers.ids.tolist() == before.ids.tolist()
    apart = np.abs(answers.logits - before.logits).max()
    assert 0 < apart < (0.2 if precision == "bf16" else 0.02)  # half precision has 8 or 11 significant bits


def test_arrays_as_those_of_cifar_10_c_and_a_set_of_torch_are_evaluated(digits, tmp_path, capsys, monkeypatch):
    home, _, run = digits
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    own = Digits().load(None).limited(300)
    pixels, labels = own.test.pixels[own.test.rows], own.test.targets
    np.save(tmp_path / "gaussian_noise.npy", np.concatenate([255 - pixels, pixels]))
    np.save(tmp_path / "fog.npy", 255 - np.concatenate([pixels, pixels]))
    np.save(tmp_path / "labels.npy", np.concatenate([labels, labels]))
    rows = f"{len(labels)},{2 * len(labels)}"
    severe = ["--root", str(tmp_path), "--data.images", "gaussian_noise", "--data.rows", rows]
    assert main([run.id, *severe, "--metric", "accuracy"]) == 0
    right = run.metrics["test/accuracy"]
    assert re.search(rf"accuracy +{right:.4f} ", capsys.readouterr().out)
    words = ["--data", "TorchDataset", "--data.factory", "tests.support.foreign:Digits", "--data.arguments"]
    assert main([run.id, *words, '{"form": "float"}', "--metric", "accuracy"]) == 0
    said = capsys.readouterr().out
    assert "on Digits: 1,797 images" in said
    right = (run.predict((RAW.images * 10).astype(np.uint8)[..., None]).argmax(axis=1) == RAW.target).mean()
    assert re.search(rf"accuracy +{right:.4f} ", said)
    with pytest.raises(UserError, match=r"--data TorchDataset needs --data\.factory"):
        main([run.id, "--data", "TorchDataset"])


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


def recorded_of(run, pattern):
    (path,) = (run.folder / "artifacts/evaluations").glob(pattern)
    return json.loads(path.read_text()), read_file(path.with_suffix(".parquet"))


def test_files_are_color_and_a_network_of_gray_images_answers_as_for_its_own(digits, monkeypatch):
    home, folder, run = digits
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    assert main([run.id, "--root", str(folder)]) == 0
    facts, answers = recorded_of(run, "digits*-all-*.json")
    own = read(run, "test")
    assert facts["metrics"]["accuracy"]["value"] == pytest.approx(run.metrics["test/accuracy"])
    assert sorted(answers.ids) == sorted(own.ids)  # each is the same image for the network


def test_several_labels_are_measured_by_label_with_intervals(several, tmp_path, monkeypatch, capsys):
    home, table, run = several
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    assert main([run.id]) == 0
    said = capsys.readouterr().out
    for name in ("accuracy", "f1", "map"):
        assert re.search(rf"{name} +{run.metrics[f'test/{name}']:.4f} +0\.\d+ to [01]\.\d+", said)
    # another table: one label translated, one that the run does not know, and none of "large"
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    named = [(path, "|".join(["gerade"] * ("even" in labels) + ["x"] * (path < "1"))) for path, labels in rows]
    other = table.parent / "other.csv"
    other.write_text("\n".join(["path,label", *map(",".join, named)]))
    (tmp_path / "map.csv").write_text("gerade,even\n")
    assert main([run.id, "--root", str(other), "--map", str(tmp_path / "map.csv")]) == 0
    said = capsys.readouterr().out
    assert f"left out: the labels x, which {run.id} does not know" in said
    assert "left out: the labels large, which other does not have" in said
    facts, answers = recorded_of(run, "other-all-*.json")
    assert answers.classes == ("even",)
    assert len(answers) == 200
    pixels = np.stack([decode((table.parent / path).read_bytes(), "", 8) for path, _ in rows])
    right = (run.predict(pixels)[:, 0] >= 0.5) == ["even" in labels for _, labels in rows]
    assert facts["metrics"]["accuracy"]["value"] == pytest.approx(right.mean())
    other.unlink()


def test_one_class_and_several_labels_are_not_compared(several, lab, monkeypatch):
    home, _, run = several
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    with pytest.raises(UserError, match=r"its images have one class, and those of .* have any number of labels"):
        main([run.id, "--root", str(lab[1])])


def test_corrupted_images_are_measured_and_recorded(digits, monkeypatch, capsys):
    home, _, run = digits
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    assert main([run.id, "--corrupt", "--kinds", "contrast, gaussian_noise,snow", "--relative-to", run.id]) == 0
    said = capsys.readouterr().out
    assert "left out: snow, for images of 8 pixels" in said
    (path,) = (run.folder / "artifacts/evaluations").glob("digits-test-*-corrupted-contrast-gaussian_noise.json")
    facts = json.loads(path.read_text())
    test = run.splits(Launch()).test
    images = test.pixels[test.rows]
    assert facts["images"] == len(test)
    assert facts["error"] == pytest.approx(1 - run.metrics["test/accuracy"])
    means = images / 255 - images.mean((1, 2), keepdims=True) / 255
    faint = np.rint(255 * (means * 0.15 + images.mean((1, 2), keepdims=True) / 255)).astype(np.uint8)
    error = (run.predict(faint).argmax(1) != test.targets).mean()
    assert facts["corrupted"]["contrast"]["5"] == pytest.approx(error)
    every = [error for kind in facts["corrupted"].values() for error in kind.values()]
    assert len(every) == 10
    assert facts["mean_error"] == pytest.approx(np.mean(every))
    assert facts["relative_to"] == {"run": run.id, "errors": {"contrast": 1, "gaussian_noise": 1}}
    assert facts["data"]["digest"] == run.record["data"]["digest"]


def test_what_was_measured_is_recorded_once_another_process_lets_go_of_the_run(digits, monkeypatch, tmp_path):
    home, _, run = digits
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    splits, held = run.own_splits(), locked(run.folder)
    held.__enter__()
    release = threading.Timer(0.2, held.__exit__, (None, None, None))
    release.start()
    evaluate._record(run, splits, "test", "-waited", {"images": 1})
    release.join()
    assert list((run.folder / "artifacts/evaluations").glob("*-waited.json"))


def test_the_corruption_of_an_image_depends_on_neither_its_place_nor_its_file(digits, monkeypatch):
    home, folder, run = digits
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    words = ["--corrupt", "--kinds", "gaussian_noise,fog,elastic_transform", "--severity", "4"]
    assert main([run.id, *words, "--root", str(folder)]) == 0
    found = (run.folder / "artifacts/evaluations").glob("*-all-*-corrupted-gaussian_noise-fog-elastic_transform-4.json")
    (facts,) = (json.loads(path.read_text()) for path in found)
    test = Digits().load(None).limited(300).test
    backwards = test.take(np.arange(len(test))[::-1])
    kinds = ["gaussian_noise", "fog", "elastic_transform"]
    again = measure(network_of(run), backwards, lambda pixels: pixels, kinds, [4])
    assert again.corrupted == {kind: {4: facts["corrupted"][kind]["4"]} for kind in kinds}
    assert again.clean == facts["error"]


def test_frost_is_left_out_without_its_photographs(digits, monkeypatch, capsys):
    monkeypatch.setenv("LABBOOK_HOME", str(digits[0]))
    words = [digits[2].id, "--corrupt", "--severity", "3", "--kinds"]
    monkeypatch.setattr(frost, "URL", "http://127.0.0.1:9/wheel")
    with pytest.raises(UserError, match="no kind of corruption can be applied"):
        main([*words, "frost"])
    said = capsys.readouterr().out
    assert "frost, for images of 8 pixels: its photographs are missing: downloading http://127.0.0.1:9/wheel" in said
    assert f"put the file at {frost.wheel()} (sha256" in said
    frost.wheel().write_bytes(b"another file")
    assert main([*words, "frost,fog"]) == 0
    assert f"left out: frost, for images of 8 pixels: {frost.wheel()} is damaged" in capsys.readouterr().out
    frost_wheel.write(frost.wheel())
    monkeypatch.setattr(frost, "SHA256", sha256_of(frost.wheel()))
    assert main([*words, "frost"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_corruptions_that_cannot_be_measured_are_refused(several, digits, monkeypatch):
    run = several[2]
    monkeypatch.setenv("LABBOOK_HOME", str(several[0]))
    for words, message in (
        (["--corrupt"], "--corrupt needs one class for each image"),
        (["--kinds", "fog"], "need --corrupt"),
    ):
        with pytest.raises(UserError, match=message):
            main([run.id, *words])
    monkeypatch.setenv("LABBOOK_HOME", str(digits[0]))
    for words, message in (
        (["--kinds", "fogg"], r"did you mean fog\?"),
        (["--kinds", "snow"], "no kind of corruption can be applied to images of 8 pixels"),
        (["--severity", "6"], "invalid choice: 6"),
        (["--kinds", ""], "--kinds: no kind of corruption is given; choose of gaussian_noise"),
        (["--kinds", " , "], "--kinds: no kind of corruption is given"),
        (["--metric", "nll"], "--corrupt measures the error alone; leave --metric out"),
    ):
        with pytest.raises(UserError, match=message):
            main([digits[2].id, "--corrupt", *words])
