"""A run that was started can be finished, to the same bits, wherever and however it was stopped."""

import os
import signal
import time

import pytest
import torch

from core.augment import Albumentation, Mixup, RandomCrop
from core.common import paths
from core.common.errors import Damaged, UserError
from core.launch import Launch
from core.record import journal
from core.record.lock import locked
from core.runs.resume import interrupted, resume
from core.runs.train import train
from core.runs.trained import load
from core.training import checkpoint
from core.training.checkpoint import CHECKPOINTS
from experiments.tiny import EXPERIMENT
from tests.support.runs import digest, only_run, points

PROGRAM = "experiments.tiny"
WORDS = (PROGRAM, "--epochs", "3", "--mlflow", "false", "--threads", "1", "--ema.decay", "0.9",
         "--model.dropout", "0.2", "--grad_accum_steps", "2", "--augment", "RandomCrop,Mixup",
         "--augment.random_crop.padding", "1", "--checkpoint_every", "7")  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(forge, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    status, text = forge.run(*WORDS, env={"LABBOOK_HOME": str(home)})
    assert status == 0, text
    return only_run(home)


def _kill_after(process, home, step, number):
    """Send a signal once the journal tells of this step."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        folders = list((home / "mlruns" / "runs").glob("*"))
        if folders and max(journal.history(folders[0]).get("step/loss", {0: 0})) >= step:
            process.kill(number)
            return process.wait()
        time.sleep(0.005)
    raise AssertionError(process.text)


@pytest.mark.parametrize(
    "steps", [(3,), (12,), (20,), (9, 24, 45)], ids=["no_checkpoint", "mid_epoch", "epoch_end", "three_kills"]
)
def test_killed_runs_resume_to_the_same_bits(steps, undisturbed, forge, home):
    process = forge.start(*WORDS)
    for step in steps:
        assert _kill_after(process, home, step, signal.SIGKILL) == -signal.SIGKILL
        process = forge.start(PROGRAM, "resume")
    assert process.wait() == 0, process.text
    run = only_run(home)
    assert run.status == "FINISHED"
    assert digest(run) == digest(undisturbed)
    assert points(run) == points(undisturbed)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
def test_a_signal_saves_the_step_and_names_the_command_that_goes_on(number, status, undisturbed, forge, home):
    process = forge.start(*WORDS)
    assert _kill_after(process, home, 17, number) == status
    run = only_run(home)
    assert run.status == "KILLED"
    assert f"resume it with: python -m {PROGRAM} resume {run.id}" in process.text
    resumed, text = forge.run(PROGRAM, "resume", run.id)
    assert resumed == 0, text
    assert "resumes after step" in text
    assert digest(run) == digest(undisturbed)
    assert points(run) == points(undisturbed)


def test_image_steps_and_bf16_resume_to_the_same_bits(home, tmp_path, monkeypatch):
    """Albumentations in the loader, mixup, dropout, half precision: in one process, left by an exception."""
    steps = (Albumentation(name="ShiftScaleRotate", arguments={"p": 1.0}), RandomCrop(padding=1), Mixup())
    small = {"epochs": 2, "limit": 320, "batch_size": 16}
    experiment = EXPERIMENT.but({"augment": steps, "precision": "bf16", "model.dropout": 0.3} | small)
    launch = Launch(mlflow=False, threads=1, checkpoint_every="5")
    whole = train(experiment, launch, "tiny")
    from core.runs import trainer as module

    original = module._record

    def crash(*arguments):
        original(*arguments)
        if arguments[-1].step == 23:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_record", crash)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, launch, "tiny")
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    stopped = interrupted("tiny")
    assert stopped.status == "KILLED"
    assert digest(resume(stopped)) == digest(whole)


POINTS = ["checkpoint head written", "checkpoint written", "checkpoint synced", "checkpoint renamed"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_a_checkpoint_is_written(point, undisturbed, forge, home):
    process = forge.start(*WORDS, env={"LABBOOK_FAILPOINT": point})
    assert process.wait() == -signal.SIGKILL
    for path in checkpoint.generations(only_run(home).folder / CHECKPOINTS):
        checkpoint.read(path)  # what bears the name of a checkpoint is whole
    status, text = forge.run(PROGRAM, "resume")
    assert status == 0, text
    assert digest(only_run(home)) == digest(undisturbed)


def some_state(value=1.0):
    return {"trained": {"w": torch.full((1000,), value)}, "step": int(value), "history": [{"a": 1.0}]}


def test_two_generations_are_kept_and_the_older_serves_when_the_newer_is_damaged(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, some_state(step), {})
    assert [path.name for path in checkpoint.generations(tmp_path)] == [
        "000000000003.checkpoint",
        "000000000002.checkpoint",
    ]
    newest = checkpoint.generations(tmp_path)[0]
    for damage in (_flip, _truncate):
        checkpoint.save(tmp_path, 3, some_state(3), {})
        damage(newest)
        with pytest.raises(Damaged, match="digest"):
            checkpoint.read(newest)
        found, wrong = checkpoint.latest(tmp_path)
        assert found.step == 2
        assert len(wrong) == 1


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def test_a_checkpoint_is_synced_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(file):
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{file}") else "file")
        fsync(file)

    def noted_replace(before, after):
        calls.append("rename")
        replace(before, after)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    checkpoint.save(tmp_path, 1, some_state(), {})
    assert calls == ["file", "rename", "folder"]


def test_the_journal_is_on_the_disk_before_a_checkpoint_is_begun(home, monkeypatch):
    calls = []
    for kind, name in ((journal.Journal, "sync"), (checkpoint.Saver, "save")):
        original = getattr(kind, name)
        noted = lambda self, *rest, name=name, original=original: calls.append(name) or original(self, *rest)  # noqa: E731
        monkeypatch.setattr(kind, name, noted)
    train(EXPERIMENT.but({"epochs": 1, "limit": 200}), Launch(mlflow=False, checkpoint_every="1"), "tiny")
    assert calls.count("save") > 2
    assert all(calls[i - 1] == "sync" for i, call in enumerate(calls) if call == "save")


def test_a_checkpoint_never_runs_code(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    path = checkpoint.save(tmp_path, 1, {"trained": Evil()}, {})
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        checkpoint.read(path)
    assert not marker.exists()


def test_a_run_that_somebody_is_at_work_on_is_refused(forge, home):
    process = forge.start(*WORDS[:2], "1000", *WORDS[3:])
    try:
        end = time.monotonic() + 60
        while "epoch 1/" not in process.text and time.monotonic() < end:
            time.sleep(0.02)
        status, text = forge.run(PROGRAM, "resume", only_run(home).id)
        assert (status, "another process is using" in text) == (2, True), text
        status, text = forge.run(PROGRAM, "resume")
        assert (status, f"another process is training {only_run(home).id}" in text) == (2, True), text
    finally:
        process.kill(signal.SIGKILL)
        process.wait()


def test_one_process_cannot_work_on_a_run_twice(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="another process"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_finished_run_is_not_resumed(home):
    run = train(EXPERIMENT.but({"epochs": 1, "limit": 100}), Launch(mlflow=False), "tiny")
    with pytest.raises(UserError, match="is FINISHED"):
        resume(load(run.id))


def test_changed_data_are_refused(home, monkeypatch):
    run = train(EXPERIMENT.but({"epochs": 1, "limit": 100}), Launch(mlflow=False), "tiny")
    journal.Journal(run.folder).write("status", value="KILLED")
    monkeypatch.setitem(run.record["data"], "digest", "another")
    with pytest.raises(UserError, match="the data have changed"):
        resume(run)
    assert paths.runs().exists()
