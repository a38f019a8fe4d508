"""labbook publish: what timm and the Hugging Face hub read of the folder is what the run has."""

import json
import math
import shutil
from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import binomtest

from core.cli.publish import main as publish
from core.common.errors import UserError
from core.export import public_record, timm_folder
from core.export.card import card
from core.export.script import answers as script_answers
from core.inference.network import model_of
from core.launch import Launch
from core.models import Timm, Torchvision
from core.record.journal import Journal
from core.record.run import WEIGHTS
from core.runs.seeds import train_seeds
from core.runs.train import train
from core.runs.trained import load
from core.tracking.api import NoMirror
from data import ImageFolder
from data.predict import conversion
from experiments.tiny import EXPERIMENT
from tests.support.runs import images, rewrite_record
from tests.support.samples import tree

QUIET = Launch(mlflow=False, threads=1)
SMALL = EXPERIMENT.but({"limit": 200, "epochs": 1})


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A home with two seeds of a setting on gray images, and networks of timm and torchvision on colored ones."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        seeds = train_seeds(SMALL, 2, QUIET, "tiny")
        found = {"parent": seeds.parent.id, "seed": seeds.runs[0].id}
        root = tree(tmp_path_factory.mktemp("photographs") / "data", each=8, size=(40, 30))
        color = SMALL.but({"data": ImageFolder(size=32, resize_size=40, interpolation="bicubic")})
        for name, model in {
            "vit": Timm(name="test_vit"),
            "resnet": Torchvision(name="resnet18"),
        }.items():
            launch = QUIET.but({"root": root})
            found[name] = train(color.but({"model": model}), launch, "tiny", mirror=NoMirror()).id
        gray = SMALL.but({"model": Timm(name="test_resnet")})
        found["gray"] = train(gray, QUIET, "tiny", mirror=NoMirror()).id
    return home, found


@pytest.fixture
def runs(recorded, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(recorded[0]))
    return {name: load(run) for name, run in recorded[1].items()}


@pytest.mark.parametrize("name", ["vit", "resnet", "gray"])
def test_timm_loads_the_folder_with_the_logits_of_the_run(runs, tmp_path, name):
    run, folder = runs[name], tmp_path / "published"
    assert publish([run.id, str(folder)]) == 0
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = images(run)
    network = replace(run._network("cpu"), autocast=None)
    with torch.inference_mode():
        found = model(network.images(pixels))
    torch.testing.assert_close(found, torch.from_numpy(network.logits(pixels).numpy()), rtol=1e-5, atol=1e-5)
    data, height = timm.data.resolve_data_config({}, model=model), run.record["data"]["image_shape"][0]
    assert (list(data["mean"]), list(data["std"])) == (run.record["data"]["mean"], run.record["data"]["std"])
    assert data["input_size"] == (run.record["data"]["image_shape"][2], height, height)
    assert (data["interpolation"], data["crop_pct"]) == (("bilinear", 1.0) if name == "gray" else ("bicubic", 32 / 40))
    assert list(model.pretrained_cfg["label_names"]) == run.record["data"]["classes"]
    fewer = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)  # a new head, as for any of timm's
    assert fewer(network.images(pixels)).shape == (3, 7)
    again = Timm(name=json.loads((folder / "config.json").read_text())["architecture"], weights=f"local-dir:{folder}")
    assert again.origin().classes == tuple(run.record["data"]["classes"])


def test_a_network_that_timm_has_not_comes_with_a_loader_of_its_own(runs, tmp_path, capsys):
    run, folder, said = runs["seed"], tmp_path / "published", "is not a network of timm"
    assert publish([run.id, str(folder)]) == 0
    assert said in capsys.readouterr().out
    assert said in (folder / "README.md").read_text()
    assert not (folder / "config.json").exists()
    pixels = images(run, 1)
    Image.fromarray(pixels[0, ..., 0]).save(tmp_path / "one.png")
    assert script_answers(folder, [tmp_path / "one.png"]) == pytest.approx(run.predict(pixels), abs=1e-5)
    kept = load_file(run.artifact(WEIGHTS))
    assert all(torch.equal(kept[key], tensor) for key, tensor in load_file(folder / "model.safetensors").items())


def test_a_run_that_was_not_tested_has_no_table_of_results(runs, monkeypatch):
    run = runs["gray"]
    monkeypatch.setattr(type(run), "metrics", {})
    text = card(run, 1_000, conversion.facts(run), "", {}, "")
    assert "The run was not tested" in text
    assert "model-index" not in text
    assert "| metric |" not in text


def test_the_card_counts_the_parameters_of_the_published_network(runs, tmp_path):
    lora = train(SMALL.but({"lora": "Lora", "lora.rank": 2}), QUIET, "tiny", mirror=NoMirror())
    assert publish([lora.id, str(tmp_path / "published")]) == 0
    kept = sum(weight.numel() for weight in lora.model.parameters())
    assert f" with {kept:,} parameters" in (tmp_path / "published" / "README.md").read_text()
    assert kept < int(lora.record["facts"]["parameters"])


def test_a_full_disk_names_the_folder_and_not_the_run(runs, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device", str(source), None, str(target))

    monkeypatch.setattr(shutil, "copy", full)
    with pytest.raises(UserError, match=f"^{tmp_path}/published: No space left on device; nothing was written"):
        publish([runs["gray"].id, str(tmp_path / "published")])
    assert not list(tmp_path.glob("*published*"))


def test_a_network_of_the_same_name_with_other_logits_is_not_given_to_timm(runs, tmp_path):
    run, declared = runs["resnet"], runs["resnet"].record["declaration"]
    before = run.artifact("record.json").read_text()
    rewrite_record(run, {"declaration": {**declared, "model": {**declared["model"], "resize": 64}}})
    try:
        changed = load(run.id)
        reason = timm_folder.write(tmp_path, changed, model_of(changed), conversion.facts(changed))
    finally:
        rewrite_record(run, json.loads(before))
    assert "resnet18 of torchvision is another network than resnet18 of timm: " in reason
    assert not (tmp_path / "config.json").exists()


def test_the_card_is_read_by_the_hub_and_tells_intervals_and_n(runs, tmp_path, capsys):
    run, folder = runs["seed"], tmp_path / "published"
    assert publish([run.id, str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"to upload it: hf upload USER/published {folder}"
    assert any("license is for you to fill in" in line for line in lines)
    read = huggingface_hub.ModelCard.load(folder / "README.md")
    found = {one.metric_name: one.metric_value for one in read.data.eval_results}
    assert found == {name[5:]: value for name, value in run.metrics.items() if name.startswith("test/")}
    assert (read.data.library_name, read.data.pipeline_tag) == ("pytorch", "image-classification")
    assert read.data.license is None
    accuracies = [load(one).metrics["test/accuracy"] for one in (child.id for child in runs["parent"].children())]
    assert f"Accuracy over the n = 2 seeds of this setting on record: {np.mean(accuracies):.2%} +- " in read.text
    n = run.record["data"]["test"]
    low, high = binomtest(round(run.metrics["test/accuracy"] * n), n).proportion_ci(method="wilson")
    assert f"| accuracy | {run.metrics['test/accuracy']:.4f} | {low:.4f} to {high:.4f} |" in read.text
    for file in ("answers/test.parquet", "answers/val.parquet"):
        assert (folder / file).read_bytes() == run.artifact(file).read_bytes()
    history = (folder / "record/history.csv").read_text().splitlines()
    assert f"test/accuracy,1,{run.metrics['test/accuracy']}" in history


def test_nothing_of_the_machine_and_no_secret_is_in_the_folder(runs, tmp_path, capsys):
    run, home = runs["vit"], str(runs["vit"].folder.parents[2])
    token = "hf_" + "abcdefghij" * 4
    command = f"python -m experiments.tiny --root {home}/data --key {token}"
    facts = run.record["facts"] | {"mlflow.source.name": command}
    before = run.artifact("record.json").read_text()
    rewrite_record(run, {"facts": facts})
    try:
        assert publish([run.id, str(tmp_path / "told")]) == 0
        captured = capsys.readouterr()
        assert "left out: record.json: line" in captured.out + captured.err
        assert "left out: the command: line 1 looks like a token" in captured.out + captured.err
        rewrite_record(run, {"facts": run.record["facts"] | {"note": f"from {home}/data to sqlite:///{home}/a.db"}})
        assert publish([run.id, str(tmp_path / "clean")]) == 0
    finally:
        rewrite_record(run, json.loads(before))
    for folder in ("told", "clean"):
        for file in (tmp_path / folder).rglob("*"):
            content = file.read_bytes() if file.is_file() else b""
            assert token.encode() not in content
            assert home.encode() not in content, file
            assert json.loads(before)["launch"]["root"].encode() not in content
    record = json.loads((tmp_path / "clean/record/record.json").read_text())
    assert record["launch"]["root"] == "***/data"
    assert record["facts"]["note"] == "from ***/data to ***/a.db"
    assert "hardware.host" not in record["facts"]
    assert record["declaration"] == json.loads(before)["declaration"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("python -m a.b --root=/home/me/x.csv --lr 1/3", "python -m a.b --root=***/x.csv --lr 1/3"),
        ("see https://host/path and core/export", "see https://host/path and core/export"),
        ("'/data' ~/x/y file:///srv/z", "'***/data' ***/y ***/z"),
    ],
)
def test_paths_are_cut_and_addresses_are_not(text, shown):
    assert public_record.shown(text) == shown


def test_what_cannot_be_published_is_refused(runs, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder; choose another one"):
        publish([runs["seed"].id, str(full)])
    with pytest.raises(UserError, match="is the parent of other runs and has no network; name one of its runs"):
        publish([runs["parent"].id, str(tmp_path / "a")])
    weights = runs["gray"].folder / "artifacts" / WEIGHTS
    kept = weights.rename(weights.with_suffix(".away"))
    try:
        with pytest.raises(UserError, match="has no weights"):
            publish([runs["gray"].id, str(tmp_path / "a")])
    finally:
        kept.rename(weights)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full", "home"]  # no scratch is left
    unfinished = tmp_path / "home/mlruns/runs/tiny-20260101-000000-abcd"
    shutil.copytree(runs["seed"].folder, unfinished)
    Journal(unfinished).write("status", value="RUNNING")
    with pytest.raises(UserError, match="abcd is RUNNING; an export requires a finished run"):
        publish([str(unfinished), str(tmp_path / "a")])


@pytest.mark.parametrize("side", [224, 299, 32])
def test_timm_finds_the_resized_side_again(side):
    for resized in range(side, 2 * side):
        assert math.floor(side / timm_folder.crop_pct(side, resized)) == resized
