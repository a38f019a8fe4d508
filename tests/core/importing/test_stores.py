"""labbook import of what other trackers keep: stores of MLflow, and exports of W&B and of Neptune."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from core.cli.diff import main as diff
from core.cli.import_ import main
from core.common.errors import UserError
from core.compare.comparison import compare
from core.compare.listing import Wanted, listed
from core.compare.runs import rows
from core.compare.table import sentences
from core.record.labels import labels
from core.runs.trained import Run

BASE = 1_700_000_000_000  # ms since 1970


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("core.tracking.api.sync", lambda folders: [])


def imported(home):
    return sorted(map(Run, (home / "mlruns" / "runs").glob("*")), key=lambda run: run.id)


def refused(*words):
    with pytest.raises(UserError) as mistakes:
        main([str(word) for word in words])
    return str(mistakes.value)


def lightning(client, seed=0, lr=0.1, name="first", gain=0.0, parent=None, status="FINISHED"):
    """The calls of Lightning 2.6's MLFlowLogger, in their order, for two epochs of four steps with a metric logged by
    step and by epoch, validation, a LearningRateMonitor, and a test: create_run with the tag
    mlflow.runName; log_batch of all hyperparameters as Param(name, str(value)[:250]); for each log_metrics, one
    log_batch with one timestamp, the global step, and the metric epoch; and set_terminated. The test itself logs an
    artifact, as log_model=True does. A store that Lightning 2.6.6 wrote itself was compared with this one by hand."""
    experiment = client.get_experiment_by_name("mnist")
    number = experiment.experiment_id if experiment else client.create_experiment("mnist")
    tags = {"mlflow.user": "me", "mlflow.source.name": "train.py", "mlflow.runName": name, "stage": "paper"}
    tags |= {"mlflow.parentRunId": parent} if parent else {}
    run = client.create_run(number, tags=tags).info.run_id
    settings = {"lr": lr, "batch_size": 16, "max_epochs": 2, "seed": seed, "optimizer": "SGD", "model": {"width": 8}}
    flat = settings | {"model/width": settings.pop("model")["width"]}
    client.log_batch(run_id=run, params=[Param(key=key, value=str(value)[:250]) for key, value in flat.items()])

    def log(step, **values):
        at = BASE + 1000 * step
        client.log_batch(run_id=run, metrics=[Metric(key, value, at, step) for key, value in values.items()])

    for epoch, last in enumerate((3, 7)):
        client.log_batch(run_id=run, metrics=[Metric("lr-SGD", lr, BASE + 1000 * (last - 3), last - 3)])
        log(last - 2, train_loss_step=0.9, epoch=epoch)
        log(last, train_loss_step=0.8, epoch=epoch)
        log(last, val_loss=0.5 - epoch / 10, val_acc=0.8 + gain + epoch / 10 + seed / 1000, epoch=epoch)
        log(last, train_loss_epoch=0.7 - epoch / 10, epoch=epoch)
    log(8, test_acc=0.85 + gain, epoch=2)
    client.set_terminated(run, status)
    return run


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An empty database of MLflow; making its tables takes a second."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def database(template, tmp_path, monkeypatch):
    """(its file, a client)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    path = tmp_path / "store" / "old.db"
    path.write_bytes(template)
    return path, MlflowClient(f"sqlite:///{path}")


def test_a_store_of_lightnings_is_on_record_once_with_settings_tags_and_artifacts(home, database, tmp_path, capsys):
    path, client = database
    run = lightning(client)
    for name, size in (("small.txt", 9), ("large.ckpt", 2**20 + 1)):
        (tmp_path / name).write_bytes(bytes(size))
        client.log_artifact(run, str(tmp_path / name), "epoch=1-step=8")
    client.set_tag(run, "mlflow.note.content", "the first one")
    assert main([str(path)]) == 0
    (one,) = imported(home)
    assert one.history == {
        "lr": {0: 0.1, 4: 0.1},
        "step/loss": {1: 0.9, 3: 0.8, 5: 0.9, 7: 0.8},
        "train/loss": {1: 0.7, 2: 0.6},
        "val/loss": {1: 0.5, 2: 0.4},
        "val/accuracy": {1: 0.8, 2: 0.9},
        "test/accuracy": {3: 0.85},
    }
    assert one.params == {
        "optimizer.lr": "0.1", "batch_size": "16", "epochs": "2", "seed": "0", "optimizer": "SGD", "model/width": "8",
    }  # fmt: skip
    assert "settings: lr is optimizer.lr, max_epochs is epochs" in capsys.readouterr().out
    assert (labels(one.folder).name, labels(one.folder).note) == ("first", "the first one")
    assert [found.run for found in listed(Wanted(("mnist",), tags={"stage": "paper"}))] == [one.id]
    assert one.record["imported"]["path"] == one.tags["imported.from"] == f"MLflow run {run}"
    assert one.tags["imported.store"] == f"sqlite:///{path}"
    small, large = "epoch=1-step=8/small.txt", "epoch=1-step=8/large.ckpt"
    assert one.record["imported"]["artifacts"] == [
        {"name": large, "bytes": 2**20 + 1, "copied": False}, {"name": small, "bytes": 9, "copied": True},
    ]  # fmt: skip
    assert one.artifact(f"imported/{small}").read_bytes() == bytes(9)
    assert not (one.folder / "artifacts" / "imported" / large).exists()
    path.rename(path.with_name("mlflow.db"))  # found in its folder, at another address
    assert main([str(path.parent)]) == 0
    assert f"first: already on record as {one.id}" in capsys.readouterr().out
    assert [run.id for run in imported(home)] == [one.id]


def test_seeds_are_pairs_nested_runs_have_their_parent_and_only_some_may_be_taken(home, database, capsys):
    path, client = database
    number = client.create_experiment("mnist")
    above = client.create_run(number, run_name="sweep").info.run_id
    empty = client.create_run(number, run_name="nothing").info.run_id
    for seed in (1, 2):
        for lr in (0.1, 0.2):
            lightning(client, seed, lr, f"{lr}-{seed}", gain=lr / 10, parent=above)
    failed = lightning(client, 4, name="broken", status="FAILED")
    assert main([f"sqlite:///{path}", "--only", failed]) == 0
    (broken,) = imported(home)
    assert (broken.status, broken.tags["imported.from"]) == ("FAILED", f"MLflow run {failed}")
    assert main([f"sqlite:///{path}", "--only", "mnist", "--data", "mnist"]) == 0
    assert f"skipped: MLflow run {empty} (nothing): has no metrics" in capsys.readouterr().out
    runs = {labels(run.folder).name: run for run in imported(home)}
    assert {name for name, run in runs.items() if run.record["parent"] == runs["sweep"].id} == {
        f"{lr}-{seed}" for seed in (1, 2) for lr in (0.1, 0.2)
    }  # fmt: skip
    found = compare(rows(["mnist"])[0], "val/accuracy")
    assert [len(group.values) for group in found.groups] == [2, 2]
    said = next(sentences(found))
    assert said.startswith("imported (optimizer.lr=0.2) beats imported (optimizer.lr=0.1) by 1.00 points")
    assert "2 paired seeds" in said
    assert diff([runs["0.1-1"].id, runs["0.2-1"].id]) == 0
    assert "optimizer.lr" in capsys.readouterr().out


def test_folders_of_files_are_stores_and_labbooks_own_runs_are_not_doubled(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(f"file:{tmp_path}/work/mlruns")
    lightning(client)
    own = lightning(client, name="own")
    client.set_tag(own, "labbook.run", "tiny-1")
    (home / "mlruns" / "runs" / "tiny-1").mkdir(parents=True)
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")  # which MLflow 3.13 and later require
    (tmp_path / "work" / "mlruns" / "table.csv").write_text("epoch,loss\n1,2\n")  # an artifact, as far as one can tell
    assert main([str(tmp_path / "work")]) == 0
    (run,) = [path for path in (home / "mlruns" / "runs").iterdir() if path.name.startswith("mnist-")]
    assert Run(run).metrics["val/accuracy"] == 0.9
    assert "(own): is the run tiny-1 of labbook, which is on record" in capsys.readouterr().out


def test_a_store_that_is_none_is_refused_in_one_line(home, tmp_path, monkeypatch, database):
    path, _ = database
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.db").write_text("no database")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for word, message in (
        (f"sqlite:///{tmp_path}/gone.db", "gone.db: file not found"),
        (tmp_path / "text.db", "text.db: is not a database of MLflow: file is not a database"),
        (f"file:{tmp_path}/gone", "gone: folder not found"),
        (f"file:{tmp_path}/empty", "empty: is not a store of MLflow: no folder in it has a meta.yaml"),
        ("http://me:SECRET@127.0.0.1:9", "http://127.0.0.1:9: MLflow cannot read this store: "),
        ("nothing://here", "nothing://here: MLflow cannot read this store: "),
        (path, "old.db: has no runs"),
    ):
        said = refused(word)
        assert message in said
        assert "SECRET" not in said
        assert "\n" not in said
    assert not (tmp_path / "gone.db").exists()  # which MLflow would have made
    assert "--only gone: no run or experiment with this name or id" in refused(path, "--only", "gone")


# W&B


def history(steps=6, gain=0.0):
    """A history as W&B exports it: what was not logged at a step is null."""
    rows = [{"_step": step, "_runtime": step / 2, "_timestamp": BASE / 1000 + step, "epoch": step // 3,
             "train/loss": 1.0 / (step + 1), "val/acc": None, "sample": {"path": "media/a.png"}}
            for step in range(steps)]  # fmt: skip
    for row in rows[2::3]:
        row["val/acc"] = 0.5 + gain + row["epoch"] / 10
    return pa.Table.from_pylist(rows)


def files_of_wandb(folder, lr=0.1, seed=1):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_wandb": {"value": {"cli_version": "0.19"}}, "learning_rate": {"value": lr, "desc": None},
              "random_seed": {"value": seed}, "model": {"value": {"depth": 18}}}  # fmt: skip
    (folder / "config.yaml").write_text(json.dumps(config))  # which is YAML, too
    summary = {"_step": 5, "_timestamp": BASE / 1000 + 9, "train/loss": 0.1, "test/acc": 0.75, "name": "x"}
    (folder / "wandb-summary.json").write_text(json.dumps(summary))
    metadata = {"git": {"commit": "c0ffee"}, "program": "train.py", "startedAt": "2023-11-14T22:13:20Z"}
    (folder / "wandb-metadata.json").write_text(json.dumps(metadata))


def test_histories_of_wandb_have_the_config_summary_and_metadata_beside_them(home, tmp_path, capsys):
    whole = tmp_path / "lab" / "run-20231114_221320-ab12cd34"
    files_of_wandb(whole / "files")
    table = history()
    for number, part in enumerate((table.slice(0, 4), table.slice(4))):  # as the artifact run-ID-history has it
        pq.write_table(part, whole / f"000{number}.parquet")
    table.drop_columns(["sample"]).to_pandas().to_csv(tmp_path / "lab" / "other.csv")  # run.history().to_csv()
    (tmp_path / "lab" / "other.yaml").write_text("lr: 0.2\nseed: 1\n")
    assert main([str(tmp_path / "lab")]) == 0
    first, second = sorted(imported(home), key=lambda run: run.params["optimizer.lr"])
    assert first.params == {"optimizer.lr": "0.1", "seed": "1", "model.depth": "18"}
    assert second.params == {"optimizer.lr": "0.2", "seed": "1"}
    for run in (first, second):
        assert run.history["val/accuracy"] == pytest.approx({1: 0.5, 2: 0.6})  # by epoch, as in labbook
        assert run.history["train/loss"] == pytest.approx({step: 1 / (step + 1) for step in range(6)})
        assert not {"_runtime", "sample", "epoch"} & set(run.history)
    assert first.metrics["test/accuracy"] == 0.75
    assert first.tags["imported.git.commit"] == "c0ffee"
    assert first.opening["time"] == BASE
    assert "skipped columns without numbers: sample" in capsys.readouterr().out
    assert main([str(tmp_path / "lab"), "--only", "ab12cd34"]) == 0
    assert f"already on record as {first.id}" in capsys.readouterr().out
    assert len(imported(home)) == 2


# Neptune

SCHEMA = pa.schema(  # of neptune-exporter, src/neptune_exporter/model.py, but for histograms
    [("project_id", pa.string()), ("run_id", pa.string()), ("attribute_path", pa.string()),
     ("attribute_type", pa.string()), ("step", pa.decimal128(18, 6)), ("timestamp", pa.timestamp("ms", tz="UTC")),
     ("int_value", pa.int64()), ("float_value", pa.float64()), ("string_value", pa.string()),
     ("bool_value", pa.bool_()), ("datetime_value", pa.timestamp("ms", tz="UTC")),
     ("string_set_value", pa.list_(pa.string())), ("file_value", pa.struct([("path", pa.string())]))]
)  # fmt: skip


def neptune(folder, run="SAN-1", seed=1, parts=2):
    """The export of one run of Lightning's NeptuneLogger, in parts as neptune-exporter writes them."""
    base = {"project_id": "team/mnist", "run_id": run}

    def one(path, kind, value, step=None):
        field = {"float_series": "float_value", "string_series": "string_value", "file": "file_value"}.get(kind)
        at = None if step is None else {"step": Decimal(step), "timestamp": datetime.fromtimestamp(1.7e9 + step, UTC)}
        return base | {"attribute_path": path, "attribute_type": kind, field or f"{kind}_value": value} | (at or {})

    rows = [
        one("sys/name", "string", "bold"),
        one("sys/failed", "bool", True),
        one("sys/creation_time", "datetime", datetime.fromtimestamp(1.7e9 - 5, UTC)),
        one("sys/tags", "string_set", ["good one", "git.x"]),
        one("training/hyperparams/lr", "float", 0.1),
        one("training/hyperparams/seed", "int", seed),
        one("training/model/checkpoints", "file", {"path": "a.ckpt"}),
        one("monitoring/cpu", "float_series", 50.0, 1),
        one("training/note", "string_series", "text", 1),
    ]
    for epoch in range(2):
        rows.append(one("training/epoch", "float_series", float(epoch), 10 * epoch + 9))
        rows.append(one("training/val/acc", "float_series", 0.5 + epoch / 10, 10 * epoch + 9))
        rows.append(one("metrics/train_loss", "float_series", 0.9 - epoch / 10, 10 * epoch + 9))
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(parts):
        pq.write_table(pa.Table.from_pylist(rows[number::parts], SCHEMA), folder / f"{run}_part_{number}.parquet")


def test_exports_of_neptune_are_runs_whatever_the_parts_and_the_place(home, tmp_path, capsys):
    neptune(tmp_path / "data" / "team_mnist")
    neptune(tmp_path / "data" / "team_mnist", "SAN-2", seed=2)
    assert main([str(tmp_path / "data")]) == 0
    one, two = sorted(imported(home), key=lambda run: run.params["seed"])
    assert one.history["val/accuracy"] == {1: 0.5, 2: 0.6}
    assert one.history["train/loss"] == {1: 0.9, 2: 0.8}
    assert set(one.history) == {"val/accuracy", "train/loss"}
    assert one.params == {"optimizer.lr": "0.1", "seed": "1"}
    assert (one.status, one.record["experiment"], one.opening["time"]) == ("FAILED", "mnist", BASE - 5000)
    assert labels(one.folder).name == "bold"
    assert dict(labels(one.folder).tags) == {"good_one": "true", "my_git.x": "true"}
    assert one.tags["imported.from"] == "Neptune run team/mnist/SAN-1"
    printed = capsys.readouterr().out
    assert "skipped 1 file values" in printed
    assert "skipped 1 values of monitoring/, of the machine" in printed
    neptune(tmp_path / "elsewhere", "SAN-2", seed=2, parts=1)
    assert main([str(tmp_path / "elsewhere" / "SAN-2_part_0.parquet")]) == 0
    assert f"already on record as {two.id}" in capsys.readouterr().out
    assert len(imported(home)) == 2


def test_parquet_without_the_columns_names_them(home, tmp_path):
    for name, table, message in (
        ("other", {"a": [1], "b": [2]}, r"has neither the column _step of a history of W&B, nor attribute_path and the "
         "other columns of an export of Neptune; its columns are a, b"),
        ("part", {"run_id": ["a"], "attribute_path": ["b"], "attribute_type": ["int"], "step": [1.0],
                  "timestamp": [None], "string_value": ["x"], "bool_value": [True]},
         "lacks the columns float_value, int_value of an export of Neptune"),
        ("empty", {"_step": [], "loss": []}, "contains no numbers"),
        ("text", {"_step": ["a"], "loss": [1.0]}, "its column _step contains cells that are no integers"),
        ("nothing", {name: [] for name in SCHEMA.names}, "contains no rows"),
    ):  # fmt: skip
        path = tmp_path / f"{name}.parquet"
        pd.DataFrame(table).to_parquet(path)
        assert f"{path}: {message}" in refused(path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert "broken.parquet: is not a Parquet file: " in refused(tmp_path / "broken.parquet")
    (tmp_path / "offline-run" / "run-1.wandb").parent.mkdir()
    (tmp_path / "offline-run" / "run-1.wandb").write_bytes(b"")
    assert "the history of this offline run is in W&B's own format" in refused(tmp_path / "offline-run")
    assert imported(home) == []
