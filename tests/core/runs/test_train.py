"""One run from the declaration to the record: what is on disk, and the message of each ending."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.text import Text

from core.common import paths
from core.common.errors import DataError, NonFinite, UserError
from core.launch import Launch
from core.losses import Loss
from core.record import journal
from core.record.run import RECORD, WEIGHTS, read_record
from core.runs.recorder import RunInfo
from core.runs.seed_summary import draw_runs
from core.runs.seeds import resume_seeds, train_seeds
from core.runs.train import train
from core.runs.trained import Run, load
from data import Digits
from experiments.pictures import EXPERIMENT as CIFAR
from experiments.tiny import EXPERIMENT

OFFLINE = Launch(mlflow=False, threads=1)
SHORT = EXPERIMENT.but({"epochs": 2, "limit": 300})
PROGRAM = "experiments.tiny"


class Broken(Loss):
    """A custom loss with a bug."""

    def __call__(self, logits, targets):
        raise RuntimeError("a bug of the user's own")


class Nan(Loss):
    """Never a number."""

    def __call__(self, logits, targets):
        return logits.sum(dim=1) * float("nan")


class NanInEvaluation(Loss):
    """A number in training alone."""

    def __call__(self, logits, targets):
        return F.cross_entropy(logits, targets, reduction="none") * (1 if logits.requires_grad else float("nan"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
    yield train(SHORT, OFFLINE, RunInfo("tiny", "short", description="a question"))
    patch.undo()


def only_run(home) -> Run:
    (folder,) = (home / "mlruns" / "runs").iterdir()
    return Run(folder)


def test_a_finished_run_is_whole_on_disk(run):
    assert run.status == "FINISHED"
    kept = {event["path"] for _, event in journal.read(run.folder) if event["event"] == "artifact"}
    assert {RECORD, "packages.txt", "learning_curves.png", "confusion_matrix.png", "confusion_matrix.csv",
            "weights/best.safetensors"} <= kept  # fmt: skip
    assert all((run.folder / "artifacts" / name).stat().st_size for name in kept if not name.startswith("code/"))
    history = run.history
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/top5", "lr", "images_per_second"):
        assert sorted(history[name]) == [1, 2], name
    steps = list(range(1, 2 * (300 // SHORT.batch_size) + 1))
    assert sorted(history["step/loss"]) == sorted(history["step/lr"]) == sorted(history["step/grad_norm"]) == steps
    assert len(history["test/accuracy"]) == len(history["test/loss"]) == 1


def test_the_first_line_of_a_run_names_the_classes_in_their_order(home, capsys):
    train(SHORT.but({"epochs": 1}), OFFLINE, "tiny")
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "digits: 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9); train 300, val 143, test 300"


def test_every_declared_field_is_a_param_and_launch_and_origin_are_tags(run):
    events = [event for _, event in journal.read(run.folder)]
    params = next(event["values"] for event in events if event["event"] == "params")
    assert params == {name: str(value) for name, value in SHORT.flat().items()}
    tags = {}
    for event in events:
        tags |= event["values"] if event["event"] == "tags" else {}
    assert tags["variant"] == "short"
    assert tags["seed"] == "0"
    assert tags["precision"] == "fp32"
    assert tags["launch.device"] == "auto"
    assert tags["version.torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert {"hardware.cpu", "hardware.threads", "version.python", "parameters", "best_epoch"} <= set(tags)


def test_a_run_loads_with_its_declaration_and_its_best_weights(run):
    again = load(run.folder)
    assert again.experiment == SHORT
    assert _accuracy(again) == pytest.approx(again.metrics["test/accuracy"])


def _accuracy(run):
    """Of the weights that the run has kept, on the test images."""
    test = Digits().load(None).limited(300).test
    probabilities = run.predict(test.pixels[test.rows])
    assert probabilities.shape == (len(test), 10)
    return (probabilities.argmax(axis=1) == test.targets).mean()


def test_the_best_epoch_is_what_is_tested(home):
    """A learning rate that ruins the network after the first epoch."""
    from core.schedules import Schedule

    class Ruin(Schedule):
        def after_warmup(self, step, total, clock, history):
            return 1.0 if clock.epoch < 2 else 500.0

    run = train(SHORT.but({"epochs": 3, "schedule": Ruin()}), OFFLINE)
    val = run.history["val/loss"]
    best = min(val, key=val.get)
    assert best < 3
    assert list(run.history["test/accuracy"]) == [best]
    assert run.metrics["test/accuracy"] == pytest.approx(_accuracy(run))


def test_the_confusion_table_adds_up_to_the_test_accuracy(run):
    rows = [line.split(",") for line in (run.folder / "artifacts/confusion_matrix.csv").read_text().splitlines()]
    table = np.array([row[1:] for row in rows[1:]], dtype=int)
    assert rows[0][1:] == [row[0] for row in rows[1:]] == [str(digit) for digit in range(10)]
    assert table.trace() / table.sum() == pytest.approx(run.metrics["test/accuracy"])


def test_a_training_leaves_the_process_of_its_caller_as_it_was(home):
    torch.manual_seed(7)
    torch.set_num_threads(2)
    np.random.seed(7)
    random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), torch.get_num_threads()
    train(SHORT, OFFLINE.but({"threads": 1, "deterministic": True}))
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate(), torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(before[0], after[0])
    assert (before[1] == after[1]).all()
    assert before[2:] == after[2:]
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize(("accumulated", "used"), [(1, 46), (4, 44)])
def test_a_batch_is_as_large_as_a_small_training_set_allows(accumulated, used, home, capsys):
    small = SHORT.but({"limit": 46, "batch_size": 64, "grad_accum_steps": accumulated, "epochs": 2, "stopping": None})
    run = train(small, OFFLINE)
    assert f"in batches of {used} (declared: 64)" in capsys.readouterr().out
    assert len(run.history["val/loss"]) == 2
    assert run.experiment == small


def test_a_bug_in_a_custom_loss_ends_as_failed_with_its_traceback_kept(home):
    with pytest.raises(RuntimeError, match="a bug of the user's own"):
        train(SHORT.but({"loss": Broken()}), OFFLINE)
    run = only_run(home)
    assert run.status == "FAILED"
    assert "a bug of the user's own" in (run.folder / "artifacts/error.txt").read_text()


def test_a_loss_that_is_not_a_number_ends_as_failed(home):
    with pytest.raises(NonFinite, match="step 1 "):
        train(SHORT.but({"loss": Nan()}), OFFLINE)
    assert only_run(home).status == "FAILED"


def test_a_validation_that_is_never_a_number_ends_as_failed_and_reads_no_test_image(home):
    with pytest.raises(NonFinite, match=r"val/loss was NaN in each of 2 epochs.*evaluation does differently"):
        train(SHORT.but({"loss": NanInEvaluation(), "monitor": "val/loss", "epochs": 2, "stopping": None}), OFFLINE)
    run = only_run(home)
    assert run.status == "FAILED"
    assert "val/loss was NaN" in run.tags["error"]
    assert "test/loss" not in run.history


@pytest.mark.parametrize(
    ("experiment", "launch"),
    [
        (SHORT.but({"limit": 3}), OFFLINE),
        (SHORT.but({"grad_accum_steps": 7}), OFFLINE),
        (SHORT, Launch(device="cuda:77", mlflow=False)),
        (CIFAR, Launch(root="nowhere", mlflow=False)),
    ],
    ids=["limit", "grad_accum_steps", "device", "root"],
)
def test_a_mistake_leaves_no_run_behind(experiment, launch, home):
    with pytest.raises(UserError):
        train(experiment, launch)
    assert not paths.runs().exists()


def test_a_mistake_in_several_seeds_leaves_no_parent_behind(home):
    with pytest.raises(DataError):
        train_seeds(CIFAR, 2, Launch(root="nowhere", mlflow=False))
    assert not paths.runs().exists()


def test_a_folder_that_takes_no_runs_is_a_mistake_with_advice(home):
    (home / "mlruns").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="LABBOOK_HOME"):
        train(SHORT, OFFLINE)


def test_missing_data_are_a_data_error(home):
    with pytest.raises(DataError, match="nowhere"):
        train(CIFAR, Launch(root="nowhere", mlflow=False))


def test_several_seeds_stand_under_one_parent_with_mean_and_interval(home, drawn):
    seeds = train_seeds(SHORT.but({"epochs": 2, "seed": 5}), 3, OFFLINE, "tiny")
    values = [run.metrics["test/accuracy"] for run in seeds.runs]
    assert [run.experiment.seed for run in seeds.runs] == [5, 6, 7]
    assert all(run.record["parent"] == seeds.parent.id for run in seeds.runs)
    metrics = seeds.parent.metrics
    assert metrics["test/accuracy"] == pytest.approx(np.mean(values))
    assert metrics["test/accuracy_std"] == pytest.approx(np.std(values, ddof=1))
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    assert metrics["test/accuracy_ci95"] == pytest.approx(half, rel=1e-5)
    assert seeds.parent.status == "FINISHED"
    history = seeds.parent.history
    for name in ("train/loss", "val/accuracy"):
        for epoch in (1, 2):
            at = [run.history[name][epoch] for run in seeds.runs]
            half = 4.302653 * np.std(at, ddof=1) / np.sqrt(3)
            assert history[name][epoch] == pytest.approx(np.mean(at))
            assert history[f"{name}_low"][epoch] == pytest.approx(np.mean(at) - half, rel=1e-5)
            assert history[f"{name}_high"][epoch] == pytest.approx(np.mean(at) + half, rel=1e-5)
    assert (metrics["seeds_finished"], metrics["seeds_failed"]) == (3, 0)
    assert (seeds.parent.folder / "artifacts" / "seeds.png").stat().st_size > 10_000


def test_failed_seeds_are_kept_in_sight_and_the_rest_go_on(home):
    class Moody(Loss):
        unlucky: ClassVar = True

        def build(self, context):
            if Moody.unlucky and torch.initial_seed() == _model_seed(1):
                raise RuntimeError("seed 1 is unlucky")
            return self

        def __call__(self, logits, targets):
            return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    seeds = train_seeds(SHORT.but({"epochs": 1, "loss": Moody()}), 3, OFFLINE)
    parent = seeds.parent
    assert len(seeds.runs) == 2
    assert seeds.failed == {1: "RuntimeError: seed 1 is unlucky"}
    assert parent.status == "FAILED"
    assert parent.tags["failed_seeds"] == "1"
    assert parent.tags["failed_seed_1"] == "RuntimeError: seed 1 is unlucky"
    assert parent.metrics["seeds_failed"] == 1
    assert parent.metrics["test/accuracy"] == pytest.approx(np.mean([r.metrics["test/accuracy"] for r in seeds.runs]))
    Moody.unlucky = False
    mended = resume_seeds(parent)
    assert (parent.status, mended.failed, parent.tags["failed_seeds"]) == ("FINISHED", {}, "")
    assert parent.tags["failed_seed_1"] == ""
    for name in ("val/accuracy", "test/accuracy", "train/loss"):
        assert parent.metrics[name] == pytest.approx(np.mean([run.metrics[name] for run in mended.runs]))


def test_the_picture_of_several_seeds_names_those_that_failed(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("core.common.plots.save", lambda figure, path: drawn.append(figure))
    history = {"val/loss": {1: 0.5, 2: 0.4}, "train/loss": {1: 0.6, 2: 0.3}, "val/accuracy": {1: 0.4}}
    other = {"val/loss": {1: 0.7}, "train/loss": {1: 0.8}, "val/accuracy": {1: 0.6}}
    stopped, failed = {"seed 3": {"val/loss": {1: 9.0}}}, {"seed 3": "NonFinite: step 7"}
    draw_runs("tiny base", "seed", [history, other], stopped, failed, tmp_path)
    (figure,) = drawn
    said = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "tiny base: 2 of 3 seeds" in said
    assert "seed 3 failed: NonFinite: step 7" in said
    assert "val/loss, failed seed 3" in said
    bands = figure.axes[0].collections
    assert [len(band.get_paths()) for band in bands] == [1, 1]
    low, high = bands[1].get_paths()[0].get_extents().intervaly
    assert (low, high) == pytest.approx((0.6 - 12.706 * 0.1, 0.6 + 12.706 * 0.1), rel=1e-3)
    (share,) = figure.axes[1].collections
    assert list(share.get_paths()[0].get_extents().intervaly) == [0, 1]  # not 0.5 +- 1.27


def _model_seed(seed):
    from core import randomness

    return randomness.step_seeds(seed, -1, 0, 1)[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labbook": 0}', "too old for this labbook"),
        ('{"labbook": 99}', "use the labbook that wrote it"),
        ("[]", "version None"),
        ("{", "not a record"),
    ],
)
def test_records_of_other_versions_are_refused_with_the_reason(content, message, tmp_path):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(UserError, match=message):
        read_record(tmp_path / RECORD)


def test_damaged_weights_are_reported(run, tmp_path):
    copied = Run(shutil.copytree(run.folder, tmp_path / "copied"))
    os.truncate(copied.folder / "artifacts" / WEIGHTS, 100)
    with pytest.raises(UserError, match=r"best\.safetensors: damaged"):
        copied.model  # noqa: B018


def test_a_run_is_found_by_the_beginning_of_its_id_and_misspellings_are_reported(run, monkeypatch):
    monkeypatch.setenv("LABBOOK_HOME", str(run.folder.parent.parent.parent))
    assert load(run.id[:-2]) == Run(paths.runs() / run.id)
    with pytest.raises(UserError, match=run.id):
        load(run.id[:-1] + "~")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
def test_a_signal_ends_a_run_at_the_end_of_a_step_as_killed(number, status, forge, home):
    process = forge.start(PROGRAM, "--epochs", "1000", "--stopping", "none", "--mlflow", "false", "--threads", "1")
    _wait_for(lambda: "epoch 2/" in process.text)
    process.kill(number)
    assert process.wait(30) == status
    assert "Traceback" not in process.text
    run = only_run(home)
    assert run.status == "KILLED"
    last = max(run.history["val/loss"])
    assert (run.folder / "artifacts/weights/best.safetensors").exists()
    assert run.id in process.text
    assert last >= 2


def test_a_second_signal_ends_at_once(forge, home):
    process = forge.start(PROGRAM, "--epochs", "1000", "--stopping", "none", "--mlflow", "false", "--threads", "1")
    _wait_for(lambda: "epoch 1/" in process.text)
    process.kill(signal.SIGSTOP)
    process.kill(signal.SIGINT)
    process.kill(signal.SIGTERM)
    process.kill(signal.SIGCONT)
    assert process.wait(30) in (130, 143, -signal.SIGTERM)


def test_output_that_is_no_terminal_gets_one_plain_line_per_epoch(forge, home):
    status, text = forge.run(PROGRAM, "--epochs", "3", "--mlflow", "false", "--threads", "1")
    assert status == 0, text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("epoch")] == ["1/3", "2/3", "3/3"]
    assert "test accuracy" in text
    assert "\x1b" not in text


def test_the_command_line_shows_no_traceback_for_a_number_that_is_none(forge, home):
    status, text = forge.run(PROGRAM, "--optimizer.lr", "1e30", "--mlflow", "false")
    assert status == 1
    assert "not finite at step" in text
    assert "Traceback" not in text


HEAVY = ("torchvision", "mlflow", "optuna", "albumentations")


@pytest.mark.parametrize("words", [["--help"], ["--epochs", "0"]], ids=["help", "mistake"])
def test_asking_for_help_or_a_mistake_imports_nothing_heavy(words, home):
    code = (
        "import sys; from core.cli.main import experiment as main\n"
        "try: main('experiments.pictures', sys.argv[1:])\n"
        f"except SystemExit: print('LOADED', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


def test_the_trainer_never_imports_mlflow(home):
    code = (
        "import sys; from core import train, Launch; from experiments.tiny import EXPERIMENT\n"
        "train(EXPERIMENT, Launch(smoke=True))\n"
        "print('LOADED', [name for name in ('mlflow', 'optuna') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


def test_a_smoke_run_is_marked_and_takes_every_step(home):
    run = train(CIFAR.but({"data": Digits()}), Launch(smoke=True, mlflow=False))
    tags = {
        k: v for _, event in journal.read(run.folder) if event["event"] == "tags" for k, v in event["values"].items()
    }
    assert tags["smoke"] == "true"
    assert run.status == "FINISHED"
    assert len(run.history["test/accuracy"]) == 1
    assert json.loads((run.folder / "summary.json").read_text())["whole"] is False


def test_mlflow_shows_a_run_while_it_trains_and_as_killed_after_kill_9(forge, home, tmp_path):
    """Started in a folder that is neither the repository nor the home."""
    from mlflow import MlflowClient

    words = (PROGRAM, "--epochs", "1000", "--stopping", "none", "--threads", "1")
    process = forge.start(*words, cwd=tmp_path)
    _wait_for(lambda: (home / "mlflow.db").exists())
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")

    def seen():
        experiments = [found.experiment_id for found in client.search_experiments() if found.name == "tiny"]
        runs = client.search_runs(experiments) if experiments else []
        return runs[0] if runs and "val/accuracy" in runs[0].data.metrics else None

    _wait_for(seen)
    assert seen().info.status == "RUNNING"
    process.kill(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    _wait_for(lambda: seen().info.status == "KILLED")
    points = client.get_metric_history(seen().info.run_id, "step/loss")
    assert {point.step: point.value for point in points} == only_run(home).history["step/loss"]


def _wait_for(condition, timeout=200):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.3)  # a question asked more often would keep the mirror from the database


@pytest.mark.parametrize(
    "where", ["| head -1", *(pytest.param(other, marks=pytest.mark.slow) for other in ("> /dev/full", ">&-"))]
)
def test_a_run_outlives_its_display(where, home):
    command = f"{sys.executable} -m {PROGRAM} --epochs 2 --limit 200 --mlflow false --threads 1 {where}"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert only_run(home).status == "FINISHED"


def test_peak_memory_is_the_runs_own_not_its_parents(home):
    code = "from core.record.provenance import peak_memory_mb; print(peak_memory_mb())"
    ballast = np.ones(400 * 2**20, np.uint8)  # what getrusage would tell the child as its own
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ballast.sum() > 0
    assert float(done.stdout) < 300
