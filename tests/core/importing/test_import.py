"""labbook import: logs as other programs write them, taken into the record, and what is refused in plain words."""

import csv
import errno
import json
import math
import os
import posixpath
import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cli.list import best_on_record
from core.cli.main import labbook as main
from core.cli.rerun import main as rerun
from core.common.errors import UserError
from core.compare.comparison import compare
from core.compare.runs import rows
from core.compare.table import as_csv, markdown, sentences
from core.importing import csv_log
from core.importing.metric_names import named, valid, valid_names
from core.options import parse
from core.record.journal import Journal, read
from core.runs.resume import resume
from core.runs.trained import Run, load
from core.tracking.api import tracking_uri
from experiments.tiny import EXPERIMENT
from tests.support.optional import library

TIMM = "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\n0,2.1,1.9,33.1,88.0,0.1\n1,1.1,1.2,63.1,98.0,0.05\n"
KERAS = "epoch,accuracy,learning_rate,loss,val_accuracy,val_loss\n0,0.5,0.001,1.2,0.6,1.0\n1,0.7,0.001,0.9,0.8,0.9\n"
BASE = 1_600_000_000.0  # s since 1970


@pytest.fixture
def offline(monkeypatch):
    """Replaces the mirror by a list of the runs that it would have been given."""
    sent = []
    sync = "core.tracking.api.sync"
    monkeypatch.setattr(sync, lambda folders: sent.append([folder.name for folder in folders]) or [])
    return sent


@pytest.fixture
def labbook(monkeypatch, capsys, offline):
    """(exit status, what is printed, each space single) of a command line."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["labbook", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return left.value.code, " ".join((printed.out + printed.err).split())

    return run


def runs(home):
    return [
        Run(path) for path in sorted((home / "mlruns" / "runs").glob("*"), key=lambda path: path.stat().st_mtime_ns)
    ]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def board(folder):
    library("tensorboard", extra="import")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


def events(folder, accuracies, hparams=None):
    with board(folder) as writer:
        for epoch, accuracy in enumerate(accuracies):
            writer.add_scalar("Accuracy/val", accuracy, epoch, walltime=BASE + 60 * epoch)
            writer.add_scalar("Loss/train", 1 - accuracy, epoch, walltime=BASE + 60 * epoch)
        if hparams:
            writer.add_hparams(hparams, {"hparam/accuracy": accuracies[-1]})
    return folder


def test_tensorboards_runs_keep_their_times_and_settings_and_fold_over_seeds(tmp_path, home, labbook):
    for seed in range(3):
        for lr, gain in ((0.1, 0.02), (0.01, 0.0)):
            settings = {"lr": lr, "seed": seed, "opt": "sgd"}
            events(tmp_path / "runs" / f"{lr}_{seed}", [0.8, 0.9 + gain + seed / 1000], settings)
    status, printed = labbook("import", tmp_path / "runs", "--data", "cifar")
    assert status == 0
    assert "Accuracy/val val/accuracy 6" in printed
    one = next(run for run in runs(home) if run.tags["imported.from"].endswith("0.1_2"))
    found = [event for _, event in read(one.folder)]
    assert found[0]["time"] == BASE * 1000
    assert [e["time"] for e in found if e["event"] == "metrics" and "val/accuracy" in e["values"]] == [
        BASE * 1000, (BASE + 60) * 1000]  # fmt: skip
    assert one.status == "FINISHED"
    assert one.history["val/accuracy"] == pytest.approx({0: 0.8, 1: 0.922})
    assert found[1]["values"] == {"optimizer.lr": "0.1", "optimizer": "sgd", "seed": "2"}
    comparison = compare(*rows(["runs"])[:1], "val/accuracy")
    assert [(g.label, len(g.values)) for g in comparison.groups] == [
        ("imported (optimizer.lr=0.1)", 3), ("imported (optimizer.lr=0.01)", 3)]  # fmt: skip
    assert next(sentences(comparison)).startswith(
        "imported (optimizer.lr=0.1) beats imported (optimizer.lr=0.01) by 2.00 points"
    )
    assert "imported (optimizer.lr=0.1)" in markdown(comparison) + as_csv(comparison)


def test_an_event_torn_by_a_kill_is_skipped_with_a_message(tmp_path, home, labbook):
    folder = events(tmp_path / "run", [0.8, 0.9])
    (file,) = folder.glob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-5])
    status, printed = labbook("import", file)
    assert status == 0
    assert "bytes, which are incomplete or damaged" in printed
    (run,) = runs(home)
    assert run.history["train/loss"].keys() == {0}
    assert run.history["val/accuracy"].keys() == {0, 1}


def test_what_keras_and_add_scalars_spread_over_folders_is_one_run(tmp_path, home, labbook):
    for half in ("train", "validation"):
        with board(tmp_path / "keras" / half) as writer:
            writer.add_scalar("epoch_loss", 0.5, 0)
    with board(tmp_path / "torch") as writer:
        writer.add_scalars("loss", {"train": 1.0, "val": 2.0}, 3)
    events(tmp_path / "own", [0.5])
    events(tmp_path / "own" / "later", [0.6])  # a run of its own, for it is no part of the other
    assert labbook("import", tmp_path, "--experiment", "old")[0] == 0
    metrics = {run.tags["imported.from"].rsplit("/", 1)[1]: run.metrics for run in runs(home)}
    assert metrics["keras"] == {"train/loss": 0.5, "val/loss": 0.5}
    assert metrics["torch"] == {"train/loss": 1.0, "val/loss": 2.0}
    assert metrics["own"]["val/accuracy"] == pytest.approx(0.5)
    assert metrics["later"]["val/accuracy"] == pytest.approx(0.6)


def test_lightnings_sparse_rows_become_epochs_from_one_and_its_hparams_params(tmp_path, home, labbook):
    folder = tmp_path / "lightning_logs" / "version_3"
    write(
        folder / "metrics.csv",
        "epoch,lr-SGD,step,test_acc,train_loss_epoch,train_loss_step,val_acc,grad\n"
        "0,,9,,,1.0,,3\n0,,19,,,0.9,,4\n0,,19,,,,0.5\n0,0.1,19,,0.95,,\n1,,29,,,0.8,\n1,,39,,,0.7,\n1,,39,,,,0.6\n"
        "1,0.1,39,,0.75,,\n2,,40,0.58,,,\n",
    )
    write(folder / "hparams.yaml", "model: !!python/object:a.B\n  depth: 18\nlr: 0.1\nseed_everything: 7\n")
    assert labbook("import", tmp_path / "lightning_logs")[0] == 0
    (run,) = runs(home)
    assert run.history == {
        "grad": {9: 3.0, 19: 4.0},
        "step/loss": {9: 1.0, 19: 0.9, 29: 0.8, 39: 0.7},
        "train/loss": {1: 0.95, 2: 0.75},
        "val/accuracy": {1: 0.5, 2: 0.6},
        "test/accuracy": {3: 0.58},
        "lr": {1: 0.1, 2: 0.1},
    }
    (params,) = [event["values"] for _, event in read(run.folder) if event["event"] == "params"]
    assert params == {"model.depth": "18", "optimizer.lr": "0.1", "seed": "7"}
    assert run.record["experiment"] == "lightning_logs"


def test_timms_percents_and_keras_bare_names_become_labbooks(tmp_path, home, labbook):
    write(tmp_path / "timm" / "summary.csv", TIMM)
    write(tmp_path / "timm" / "args.yaml", "seed: 42\nmodel: resnet18\n")
    write(tmp_path / "keras" / "log.csv", KERAS.replace(",", ";"))
    status, printed = labbook("import", tmp_path / "timm", tmp_path / "keras")
    assert status == 0
    assert "63.1 -> 0.631" in printed
    timm, keras = runs(home)
    assert timm.history["val/accuracy"] == pytest.approx({1: 0.331, 2: 0.631})
    assert timm.metrics["val/top5"] == pytest.approx(0.98)
    assert keras.metrics == {
        "train/accuracy": 0.7,
        "lr": 0.001,
        "train/loss": 0.9,
        "val/accuracy": 0.8,
        "val/loss": 0.9,
    }


def test_the_same_adds_nothing_and_what_has_grown_or_is_asked_for_otherwise_replaces(tmp_path, home, labbook, offline):
    log = write(tmp_path / "old" / "a.csv", "epoch,val_acc\n1,0.5\n")
    assert labbook("import", log, "--dry-run")[1].count("would import a (CSV") == 1
    assert runs(home) == []
    labbook("import", log)
    status, printed = labbook("import", tmp_path / "old")
    assert (status, len(runs(home))) == (0, 1)
    assert f"already on record as {runs(home)[0].id}" in printed
    log.write_text("epoch,val_acc\n1,0.5\n2,0.7\n")
    assert "replacing" in labbook("import", log)[1]
    labbook("import", log, "--data", "cifar")
    assert "already on record" in labbook("import", log, "--data", "cifar")[1]
    by_time = {run.record["imported"]["replaces"]: run for run in runs(home)}
    assert len(by_time) == 3
    first = by_time[None]
    assert first.tags["imported.replaced_by"] == by_time[first.id].id
    assert {first.id, by_time[first.id].id} in [set(sent) for sent in offline]
    found, left = rows(["old"])
    assert [row.data for row in found] == ["cifar"]
    assert sum("imported again as" in line for line in left) == 2


def test_data_that_nobody_named_are_not_claimed_to_be_the_same(tmp_path, home, labbook):
    for name in "ab":
        write(tmp_path / "old" / f"{name}.csv", f"epoch,test_acc\n1,0.{len(name)}{ord(name)}\n")
    labbook("import", tmp_path / "old")
    status, printed = labbook("compare", "old", "--metric", "test/accuracy")
    assert status == 2
    assert "the data of 2 imported runs are unknown" in printed
    status, printed = labbook("compare", "old", "--metric", "test/accuracy", "--anyway")
    assert status == 0
    assert "warning: the data of" in printed
    assert {"a", "b"} <= set(printed.split())  # without a setting, each is one of its own
    journal = Journal(home / "mlruns" / "runs" / "own-20260101-000000-abcd")
    journal.write("params", values={key: str(value) for key, value in EXPERIMENT.flat().items()})
    record = {"labbook": 2, "run": journal.folder.name, "experiment": "own", "variant": None, "parent": None,
              "declaration": EXPERIMENT.record(), "data": {"digest": "d" * 64}, "facts": {"parameters": "9"},
              }  # fmt: skip
    journal.artifact("record.json").write_text(json.dumps(record))
    summary = {"status": "FINISHED", "metrics": {"test/accuracy": 0.9}, "whole": True}
    (journal.folder / "summary.json").write_text(json.dumps(summary))
    journal.close("FINISHED")
    for name in "ab":
        write(tmp_path / "old" / f"{name}.yaml", f"seed: 0\nname: {name}\n")
    labbook("import", tmp_path / "old", "--data", journal.folder.name)
    seeds = {row.experiment: row.seed for row in rows(["old", "own"])[0]}
    assert seeds["old"] != seeds["own"]  # seed 0 of another program is no pair of labbook's
    status, printed = labbook("compare", "old", "own", "--metric", "test/accuracy")
    assert status == 0, printed
    assert "own/base" in printed
    assert labbook("compare", "old", "own", "--metric", "test/accuracy", "--html", tmp_path / "page.html")[0] == 0


def test_whatever_needs_a_declaration_says_that_there_is_none(tmp_path, home, labbook):
    labbook("import", write(tmp_path / "tiny" / "a.csv", "epoch,test_acc\n1,1.0\n"))
    (run,) = runs(home)
    for refused in (lambda: rerun([run.id]), lambda: resume(run), lambda: load(run.id).model, lambda: run.experiment,
                    lambda: parse(["--from", run.id], EXPERIMENT, {}),
                    lambda: parse(["--continue", run.id], EXPERIMENT, {})):  # fmt: skip
        with pytest.raises(UserError, match=f"{run.id} was imported: it has no declaration") as mistakes:
            refused()
        assert len(mistakes.value.lines) == 1
    assert best_on_record("tiny") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("epoch,val_acc\n", "contains no rows below the header"),
        ("epoch,val_acc\n0,good\n", "contains no numbers"),
        ("a,b\n1,2\n", "no column named epoch or step"),
        ("epoch,a,a\n1,2,3\n", "several columns named a"),
        ("epoch,val_acc\n1,93.1\n", "--percent 'val_acc'"),
        ("epoch,a\n1.5,2\n", "its column of epochs or steps contains no integers"),
        ("epoch,a\n1,1_000\n", "contains no numbers"),
        ("epoch,a\n1," + "9" * 200_000, "is not a CSV file in UTF-8: field larger than field limit"),
    ],
)
def test_a_file_that_is_no_log_is_refused_in_one_line(tmp_path, home, labbook, text, message):
    status, printed = labbook("import", write(tmp_path / "log.csv", text))
    assert status == 2
    assert message in printed
    assert not runs(home)


def test_mistakes_name_the_word(tmp_path, home, labbook, monkeypatch):
    log = write(tmp_path / "log.csv", "epoch,val_acc,mine\n0,93.1,nan\n0,94.1,inf\n")
    (tmp_path / "none").mkdir()
    for words, message in (
        ((tmp_path / "gone",), "gone: file or folder not found"),
        ((tmp_path / "none",), "contains no TensorBoard event files, CSV logs or trainer_state.json"),
        ((log, "--rename", "val_ac=val/f1"), "val_ac: unknown metric; did you mean val_acc?"),
        ((log, "--rename", "mine=a//b"), "--rename mine=a//b"),
        ((log, "--rename", "mine=x", "--rename", "val_acc=x"), "several metrics would become x"),
        ((log, "--experiment", "a b"), "--experiment a b: is not a valid folder name; use a_b"),
        ((), "PATH is missing; usage: labbook import PATH ..."),
    ):
        status, printed = labbook("import", *words)
        assert (status, message in printed) == (2, True), printed
        assert "Traceback" not in printed
    status, printed = labbook("import", log, "--percent", "val_acc", "--rename", "mine=val/mine")
    assert status == 0
    assert "2 values were logged again at the same step; the last one counts" in printed
    assert runs(home)[0].metrics == {"val/accuracy": pytest.approx(0.941), "val/mine": math.inf}
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    write(tmp_path / "board" / "events.out.tfevents.1", "")
    assert 'pip install -e ".[import]"' in labbook("import", tmp_path / "board")[1]


def test_a_full_disk_leaves_no_half_run(tmp_path, home, labbook, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("core.importing.writer.log_text", full)
    status, printed = labbook("import", write(tmp_path / "a.csv", "epoch,val_acc\n1,0.5\n"))
    assert status == 2
    assert "No space left on device" in printed
    assert not list((home / "mlruns").rglob("journal.jsonl"))


CELL = st.one_of(st.none(), st.floats(width=64), st.integers(-(10**6), 10**6))
HEADS = st.lists(st.text("abcxyz/_ é@", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=4, unique=True)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), heads=HEADS, delimiter=st.sampled_from(",;\t"))
def test_every_number_of_a_table_is_read_back_and_the_last_of_a_step_counts(tmp_path_factory, data, heads, delimiter):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    lines = data.draw(st.lists(st.tuples(st.integers(0, 5), *[CELL for _ in heads]), min_size=1, max_size=8))
    with path.open("w", newline="", encoding="utf-8") as stream:
        out = csv.writer(stream, delimiter=delimiter)
        out.writerow(["step", *heads])
        out.writerows(["" if cell is None else cell for cell in line] for line in lines)
    expected = {
        (head, line[0]): line[1 + i] for line in lines for i, head in enumerate(heads) if line[1 + i] is not None
    }
    try:
        found = {(point.name, point.step): point.value for _, log in csv_log.read(path) for point in log.points}
    except UserError:
        found = {}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == value or (math.isnan(value) and math.isnan(found[key]))


@settings(max_examples=60, deadline=None)
@given(
    content=st.one_of(st.binary(max_size=60), st.text('epoch,step\n\r";0123.nai_-\x00é', max_size=60).map(str.encode))
)
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "anything.csv"
    path.write_bytes(content)
    lines = None
    try:
        assert all(log.points for _, log in csv_log.read(path))
    except UserError as mistakes:
        lines = mistakes.lines
    assert lines is None or len(lines) == 1


@settings(max_examples=60, deadline=None)
@given(names=st.sets(st.text(max_size=12), min_size=1, max_size=6))
def test_no_two_metrics_become_one_and_mlflow_takes_every_name(names):
    found = named(names, {}, ())
    assert {name.old for name in found} == names
    assert len({name.new for name in found}) == len(names)
    for name in found:
        assert re.fullmatch(r"[\w\-. /]{1,250}", name.new)
        assert posixpath.normpath(name.new) == name.new  # MLflow's rule
        assert valid(name.new) == name.new
    parameters = valid_names(names)
    assert parameters.keys() == names
    assert len(set(parameters.values())) == len(names)


COMMON = ["val_accuracy", "val_binary_accuracy", "valid_acc", "val/acc", "val_loss", "valid_loss", "loss", "train_loss"]


@settings(max_examples=100, deadline=None)
@given(names=st.permutations([*COMMON, "train_loss_epoch", "x@", "x_", "größe", "lr", "learning_rate"]))
def test_names_do_not_depend_on_the_order_in_which_metrics_are_found(names):
    found = {name.old: name.new for name in named(names, {}, ())}
    assert found["val_accuracy"] == "val/accuracy"
    assert found["val_binary_accuracy"] == "val_binary_accuracy"
    assert (found["val_loss"], found["valid_loss"]) == ("val/loss", "valid_loss")
    assert (found["train_loss_epoch"], found["train_loss"], found["loss"]) == ("train/loss", "train_loss", "loss")
    assert (found["x_"], found["x@"]) == ("x_", "x__2")
    assert (found["lr"], found["learning_rate"], found["größe"]) == ("lr", "learning_rate", "größe")


def test_an_import_repeated_adds_nothing_whatever_the_hash_seed(tmp_path, home):
    rows = [f"{epoch},{','.join(str((epoch + place) / 10) for place in range(len(COMMON)))}" for epoch in range(3)]
    log = write(tmp_path / "log.csv", "\n".join([f"epoch,{','.join(COMMON)}", *rows, ""]))
    for hash_seed in range(2):
        command = [sys.executable, "-m", "core", "import", str(log)]
        environment = os.environ | {
            "PYTHONHASHSEED": str(hash_seed),
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
        }
        subprocess.run(command, env=environment, check=True, capture_output=True)
    assert len(runs(home)) == 1


def test_parameters_with_names_of_other_scripts_are_kept_apart(tmp_path, home, labbook):
    for name, rate in (("a", "0.1"), ("b", "0.01")):
        write(tmp_path / "logs" / name / "metrics.csv", f"epoch,val_loss\n0,{rate}\n1,{rate}\n")
        write(tmp_path / "logs" / name / "hparams.yaml", f"学习率: {rate}\n批量大小: 32\na(b: 1\na[b: 2\nseed: 1\n")
    assert labbook("import", tmp_path / "logs", "--data", "d")[0] == 0
    assert [run.params for run in runs(home)] == [
        {"学习率": rate, "批量大小": "32", "a_b": "1", "a_b_2": "2", "seed": "1"} for rate in ("0.1", "0.01")
    ]
    found = compare(*rows(["logs"])[:1], "val/loss")
    assert len(found.groups) == 2


def test_steps_that_a_restart_took_back_do_not_count(tmp_path, home, labbook):
    library("tensorboard")
    folder = tmp_path / "runs" / "a"
    with board(folder) as writer:
        for step in range(6):
            writer.add_scalar("val/fun", 100 + step, step)
    torch_writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    with torch_writer(str(folder), purge_step=3, filename_suffix=".z") as writer:
        writer.add_scalar("val/fun", 1.0, 3)
    status, printed = labbook("import", folder)
    assert status == 0
    assert "skipped 3 values that a restart at step 3 took back" in printed
    assert runs(home)[0].history["val/fun"] == {0: 100.0, 1: 101.0, 2: 102.0, 3: 1.0}


def test_fits_that_were_appended_to_a_csv_are_runs_of_their_own(tmp_path, home, labbook):
    fits = [(0.5, 0.6, 0.7), (0.1, 0.2), (0.8,)]
    lines = [f"{epoch},{value}" for fit in fits for epoch, value in enumerate(fit)]
    log = write(tmp_path / "log.csv", "\n".join(["epoch,val_acc", *lines[:3], ""]))
    assert labbook("import", log)[0] == 0
    log.write_text("\n".join(["epoch,val_acc", *lines[:5], "epoch,val_acc", *lines[5:], ""]))
    status, printed = labbook("import", log)
    assert status == 0
    assert "run 2 of 3 that were appended to log.csv" in printed
    assert "skipped the header where it is repeated (1 times)" in printed
    curves = [tuple(run.history["val/accuracy"].values()) for run in runs(home)]
    assert sorted(curves) == sorted([fits[0], *fits])  # the first one was imported before, and is replaced
    assert "already on record" in labbook("import", log)[1]
    assert len(runs(home)) == 4


def test_a_resumed_fit_and_a_test_row_are_no_runs_of_their_own(tmp_path, home, labbook):
    log = write(tmp_path / "log.csv", "epoch,val_loss,test_loss\n0,3,\n1,2,\n2,9,\n1,1.5,\n2,1,\n0,,0.5\n")
    assert labbook("import", log)[0] == 0
    (run,) = runs(home)
    assert run.history["val/loss"] == {1: 3.0, 2: 1.5, 3: 1.0}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("epoch;val_acc\n0;0,5\n", 0.5),
        ("epoch,val_acc\n0,50%\n", 0.5),
        ("step,epoch,val_acc\n,0,0.5\n", 0.5),
        ("epoch\tval_acc\n0\t5e-1\n", 0.5),
    ],
    ids=["decimal comma", "percent sign", "empty column of steps", "tabs"],
)
def test_numbers_are_found_as_spreadsheets_and_loggers_write_them(tmp_path, home, labbook, text, value):
    assert labbook("import", write(tmp_path / "log.csv", text))[0] == 0
    assert runs(home)[0].metrics["val/accuracy"] == value


def test_mlflow_shows_them_with_their_own_times(tmp_path, home, monkeypatch):
    from mlflow import MlflowClient

    folder = events(tmp_path / "runs" / "a", [0.8, math.nan, 0.9], {"lr": 0.1})
    with board(folder) as writer:
        writer.add_scalar("//größe (m²)/../x", 1.0, 0, walltime=BASE)
    monkeypatch.setattr(sys, "argv", ["labbook", "import", str(folder)])
    with pytest.raises(SystemExit, match="0"):
        main()
    client = MlflowClient(tracking_uri())
    experiment = client.get_experiment_by_name("a")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.start_time == BASE * 1000
    assert run.data.metrics["größe _m²_/x"] == 1.0
    assert run.data.params == {"optimizer.lr": "0.1"}
    assert run.data.tags["imported.kind"] == "TensorBoard"
    history = client.get_metric_history(run.info.run_id, "val/accuracy")
    assert [(point.step, point.timestamp) for point in history] == [(i, (BASE + 60 * i) * 1000) for i in range(3)]
    assert math.isnan(history[1].value)
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"record.json"}


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 10)}]}}\n"
    for old, new in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "has more than 20,000 values once its aliases are expanded"),
        (MERGES, "has more than 20,000 values once its aliases are expanded"),
        ("a: &a\n  b: *a\n", "is nested too deeply, or contains itself"),
        ("a: &a [*a]\n", "is nested too deeply, or contains itself"),
        ("a: " + "[" * 50_000, "is nested too deeply, or contains itself"),
        ("a: !!bool perhaps\n", "is not YAML"),
        ("a: !!timestamp perhaps\n", "is not YAML"),
        ("a: " + "9" * 10_000 + "\n", "is not YAML"),
        ("a: " + "x" * 2**20, "more than the 1 MB of a log"),
    ],
    ids=["aliases", "merges", "recursive mapping", "recursive list", "nested", "bool", "time", "digits", "large"],
)
def test_settings_that_expand_or_are_malformed_are_refused_by_name(tmp_path, home, labbook, text, message):
    log = write(tmp_path / "metrics.csv", "epoch,val_loss\n0,1\n")
    write(tmp_path / "hparams.yaml", text)
    status, printed = labbook("import", log)
    assert (status, "hparams.yaml" in printed, message in printed) == (2, True, True), printed
    assert "Traceback" not in printed
    assert not runs(home)


def test_an_alias_that_lightning_writes_is_read(tmp_path, home, labbook):
    log = write(tmp_path / "metrics.csv", "epoch,val_loss\n0,1\n")
    write(tmp_path / "hparams.yaml", "betas: &id001\n- 0.9\n- 0.99\nothers: *id001\n")
    assert labbook("import", log)[0] == 0
    assert runs(home)[0].params == {"betas": "[0.9, 0.99]", "others": "[0.9, 0.99]"}


def test_a_pipe_and_a_device_are_refused_by_name_and_the_other_logs_read(tmp_path, home, labbook, monkeypatch):
    folder = write(tmp_path / "logs" / "a.csv", "epoch,val_loss\n0,1\n").parent
    os.mkfifo(folder / "pipe.csv")
    (folder / "zero.csv").symlink_to("/dev/zero")
    write(folder / "large.csv", "epoch,val_loss\n" + "0,1\n" * 100)
    monkeypatch.setattr(csv_log, "MOST_BYTES", 100)
    status, printed = labbook("import", folder)
    assert status == 0
    for message in ("pipe.csv: is not a regular file", "zero.csv: is not a regular file", "large.csv: has 0 MB, more"):
        assert message in printed
    assert len(runs(home)) == 1
    for name in ("pipe.csv", "zero.csv"):
        status, printed = labbook("import", folder / name)
        assert (status, f"{name}: is not a regular file" in printed) == (2, True)


def test_malformed_tensors_of_an_event_file_are_counted_and_the_others_read(tmp_path, home, labbook):
    library("tensorboard", extra="import")
    from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    path = tmp_path / "a" / "events.out.tfevents.1"
    path.parent.mkdir()
    with path.open("wb") as stream:
        writer = RecordWriter(stream)

        def add(tag, wall_time=BASE, **tensor):
            metadata = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "scalars"})
            value = summary_pb2.Summary.Value(tag=tag, metadata=metadata, tensor=tensor)
            event = event_pb2.Event(step=1, wall_time=wall_time, summary=summary_pb2.Summary(value=[value]))
            writer.write(event.SerializeToString())

        add("good", dtype=types_pb2.DT_FLOAT, float_val=[0.5])
        add("late", dtype=types_pb2.DT_FLOAT, float_val=[0.5], wall_time=math.inf)
        add("huge", dtype=types_pb2.DT_FLOAT, float_val=[0.5], tensor_shape={"dim": [{"size": 10**12}]})
        add("negative", dtype=types_pb2.DT_FLOAT, float_val=[0.5], tensor_shape={"dim": [{"size": -1}, {"size": -1}]})
        add("short", dtype=types_pb2.DT_FLOAT, tensor_content=b"a")
        add("typeless", dtype=99, float_val=[0.5])
        add("text", dtype=types_pb2.DT_STRING, string_val=[b"half"])
        add("complex", dtype=types_pb2.DT_COMPLEX64, scomplex_val=[1, 2])
        add("epoch", dtype=types_pb2.DT_DOUBLE, double_val=[1e300])
        writer.flush()
    status, printed = labbook("import", path.parent)
    assert status == 0, printed
    assert runs(home)[0].metrics.keys() - {"seconds"} == {"good", "late"}
    assert "skipped 4 malformed values" in printed
