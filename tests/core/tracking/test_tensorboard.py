"""TensorBoard has what the journal has, once, as its own reader finds it: after kills, a resume, and a full disk."""

from __future__ import annotations

import errno
import math
import os
import sys
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from core.cli.sync import main as sync
from core.common.errors import UserError
from core.launch import Launch
from core.record import journal
from core.runs.train import train
from core.tracking import cursor, process, tensorboard_files
from core.tracking.api import Mirror, Mirrors, mirror_status
from core.tracking.destinations import TENSORBOARD
from experiments.tiny import EXPERIMENT
from tests.support.mlflow_server import begin, kill, mirror_now, wait_for


def read(run: Path) -> EventAccumulator:
    """What TensorBoard has of a run: everything, for a size of 0 means all."""
    (folder,) = Path(TENSORBOARD.place()).glob(f"*/{run.name}")
    found = EventAccumulator(str(folder), {"scalars": 0, "images": 0, "tensors": 0, "graph": 1})
    found.Reload()
    return found


def assert_whole(run: Path) -> None:
    """Every first entry of each metric, once, at its step and time; TensorBoard keeps 32 bits of a value."""
    found = read(run)
    times: dict[str, dict[int, float]] = {}
    for _, event in journal.read(run):
        if event["event"] == "metrics":
            for name in event["values"]:
                times.setdefault(name, {}).setdefault(event["step"], event["time"] / 1000)
    expected = journal.history(run)
    assert set(found.Tags()["scalars"]) == set(expected)
    for name, values in expected.items():
        points = found.Scalars(name)
        assert [(point.step, point.wall_time) for point in points] == list(times[name].items())
        assert [point.value for point in points] == pytest.approx(list(values.values()), rel=1e-6, nan_ok=True)


def session(run: Path, tag: str) -> HParamsPluginData:
    return HParamsPluginData.FromString(read(run).SummaryMetadata(f"_hparams_/{tag}").plugin_data.content)


def test_a_run_arrives_whole(home):
    log = begin("whole", parent="another")
    log.write("params", values={"optimizer.lr": "0.1", "model": "MLP", "data.grey": "true"})
    log.write("tags", values={"device": "cpu"})
    log.write("dataset", name="digits", digest="d" * 64, source="sklearn", context="training", profile={"train": 3})
    for step in range(1200):
        log.metrics(step, {"train/loss": 1 / (step + 1)})
    log.metrics(7, {"train/loss": 99.0, "odd": math.nan})
    Image.new("RGB", (5, 3), "red").save(log.artifact("plots/look.png"))
    log.log_artifact("plots/look.png")
    log.artifact("weights.bin").write_bytes(b"x")
    log.log_artifact("weights.bin")
    log.close("FINISHED")
    assert mirror_now(log, to=TENSORBOARD) == 0
    assert_whole(log.folder)
    found = read(log.folder)
    (image,) = found.Images("plots/look.png")
    assert (image.width, image.height) == (5, 3)
    assert image.encoded_image_string == (log.folder / "artifacts/plots/look.png").read_bytes()
    (params,) = found.Tensors("params")
    assert b"| optimizer.lr | 0.1 |" in params.tensor_proto.string_val[0]
    assert b"digits" in found.Tensors("data/digits")[0].tensor_proto.string_val[0]
    begun = session(log.folder, "session_start_info").session_start_info.hparams
    assert (begun["optimizer.lr"].number_value, begun["model"].string_value) == (0.1, "MLP")
    assert begun["data.grey"].bool_value is True
    assert session(log.folder, "session_end_info").session_end_info.status == tensorboard_files.Status.STATUS_SUCCESS
    assert mirror_status(log.folder, TENSORBOARD).complete
    assert not mirror_status(log.folder).complete  # MLflow, which has a cursor of its own
    before = found.Scalars("train/loss")
    assert sync(["--to", "tensorboard"]) == 0  # nothing is there twice
    assert read(log.folder).Scalars("train/loss") == before


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_mirror_killed_before_it_noted_what_it_wrote_is_continued(home, written):
    log = begin("killed")
    for step in range(2500):
        log.metrics(step, {"loss": step / 3})
    mirror = process.Mirror(TENSORBOARD, 0, 1.0)
    mirror.take([str(log.folder)])
    noted = None
    for _ in range(written + 1):
        noted = cursor.load(log.folder, "tensorboard")
        assert mirror.send()
    if noted is not None:
        cursor.save(log.folder, noted, "tensorboard")
    mirror.following[0]._lock.release()  # as the kernel does for a process that was killed
    log.close("FINISHED")
    assert mirror_now(log, to=TENSORBOARD) == 0
    assert_whole(log.folder)


def test_a_mirror_killed_while_the_run_trains_is_continued_by_sync_and_a_resume(home):
    log = begin("resumed")
    mirror = Mirror(TENSORBOARD)
    mirror.follow(log.folder)
    log.metrics(0, {"loss": 1.0})
    wait_for(lambda: (found := cursor.load(log.folder, "tensorboard")) and found.position, 60)
    kill(mirror)
    log.metrics(1, {"loss": 0.5})
    log.close("KILLED")
    assert mirror_now(log, to=TENSORBOARD) == 0
    log = begin("resumed")
    log.metrics(1, {"loss": 9.0})
    log.metrics(2, {"loss": 0.25})
    log.close("FINISHED")
    assert mirror_now(log, to=TENSORBOARD) == 0
    assert_whole(log.folder)
    (file,) = Path(TENSORBOARD.place()).rglob("*tfevents*")
    file.unlink()
    assert sync(["--to", "tensorboard"]) == 0  # removed by hand: sent again
    assert_whole(log.folder)


def test_a_full_disk_leaves_nothing_twice(home, monkeypatch):
    log = begin("full")
    for step in range(50):
        log.metrics(step, {"loss": step / 3})
    log.close("FINISHED")
    append, count = tensorboard_files._append, []

    def failing(file, event):
        count.append(1)
        append(file, event)
        if len(count) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensorboard_files, "_append", failing)
    assert mirror_now(log, to=TENSORBOARD) == 0
    assert len(count) > 60  # it was tried again
    assert_whole(log.folder)


def test_a_training_is_mirrored_while_mlflow_is_off(home, monkeypatch):
    run = train(EXPERIMENT.but({"epochs": 1, "limit": 64}), Launch(mlflow=False, also=("tensorboard",), threads=1))
    assert mirror_status(run.folder, TENSORBOARD).complete
    assert_whole(run.folder)
    assert not (home / "mlflow.db").exists()
    assert run.record["launch"]["also"] == ["tensorboard"]
    found = read(run.folder)
    layers = {node.name.split("/")[1] for node in found.Graph().node if "/" in node.name}
    assert {f"{type(layer).__name__}[{place}]" for place, layer in run.model.named_children()} <= layers
    for name in ("confusion_matrix.png", "learning_curves.png", "mistakes.png"):
        (image,) = found.Images(name)
        assert image.encoded_image_string == run.artifact(name).read_bytes()


def test_a_tracker_that_is_not_installed_is_told_before_anything_starts(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("core.tracking.destinations.find_spec", lambda module: None)
    advice = r'--also wandb: wandb is not installed; install it with pip install -e "\.\[wandb\]"'
    with pytest.raises(UserError, match=advice):
        train(EXPERIMENT, Launch(also=("wandb",)))
    assert not list(home.glob("mlruns/runs/*"))
    with pytest.raises(UserError, match="tensorboard is not installed"):
        sync(["--to", "tensorboard"])
    assert Mirrors(mlflow=True, also=()).finish()
