"""labbook show, diff, and the labels of a training on the command line."""

import json

import pytest

from core.cli import diff, show
from core.cli import main as command
from core.common.errors import UserError
from core.launch import Launch
from core.options import parse
from core.record.labels import NAME, NOTE, write_labels
from core.runs.recorder import RunInfo
from core.runs.train import train
from experiments.tiny import EXPERIMENT, VARIANTS

QUICK = EXPERIMENT.but({"epochs": 1, "limit": 64})


def test_a_run_is_shown_on_one_screen_and_compared_with_another(home, capsys):
    quiet = Launch(mlflow=False, threads=1)
    first = train(QUICK, quiet, RunInfo("tiny", name="as declared"))
    second = train(QUICK.but({"optimizer.lr": 0.2}), quiet, RunInfo("tiny", "quick"))
    write_labels(second.folder, {NOTE: "Learns faster,\nor not at all.", "stage": "paper"})
    capsys.readouterr()

    assert show.main([second.id]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{second.id}  FINISHED\nexperiment  tiny, variant quick\nnote        Learns faster,\n")
    for part in ("or not at all.", "stage=paper", "optimizer.lr 0.2", "parameters  65,834", "train 64, val 64, test 64",
                 str(second.folder), "not sent to this store yet", "balanced_accuracy"):  # fmt: skip
        assert part in shown
    assert shown.count("\n") < 40
    assert max(map(len, shown.splitlines())) <= 160
    assert show.main([first.id, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["run"], found["name"], found["status"]) == (first.id, "as declared", "FINISHED")
    assert {"record.json", "weights/best.safetensors"} <= {*found["files"]}
    assert found["metrics"] == first.metrics

    assert diff.main([first.id, second.id, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["differences"]
    declared = {one["name"]: (one["first"], one["second"]) for one in found if one["section"] == "declaration"}
    assert declared == {"variant": ("base", "quick"), "optimizer.lr": (0.1, 0.2)}
    assert {one["section"] for one in found} == {"declaration", "labels", "results"}
    loss = next(one for one in found if one["name"] == "val/loss")
    assert (loss["first"], loss["second"]) == (first.metrics["val/loss"], second.metrics["val/loss"])
    assert diff.main([first.id, second.id]) == 0
    assert "optimizer.lr   0.1" in capsys.readouterr().out
    assert diff.main([first.id, first.id]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["the declarations are the same", "nothing differs"]


def test_name_and_tags_are_options_of_a_training(home, monkeypatch, capsys):
    got = parse(["--name", "wide net", "--tags", "stage=paper,who=me"], EXPERIMENT, VARIANTS)
    assert (got.name, got.tags) == ("wide net", {"stage": "paper", "who": "me"})
    assert got.experiment == EXPERIMENT
    assert got.title == "base"  # a label is no change of the declaration
    with pytest.raises(UserError) as caught:
        parse(["--name", "--tags", "seed=1,stage"], EXPERIMENT, VARIANTS)
    assert [line.partition(":")[0] for line in caught.value.lines] == ["--name", "--tags", "--tags"]
    assert "the tag seed is reserved" in caught.value.lines[1]
    for verb in ("lr_find", "summary", "look"):
        with pytest.raises(SystemExit) as left:
            command.experiment("experiments.tiny", [verb, "--name", "x", "--tags", "a=1"])
        assert left.value.code == 2
        assert "--name: only for training" in capsys.readouterr().err
    assert RunInfo("tiny", name="wide").below("parent", "title", "seed 1").name == "wide seed 1"
    assert RunInfo("tiny").below("parent", "title", "seed 1").name == ""
    assert NAME == "mlflow.runName"
