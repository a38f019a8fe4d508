"""Damage to a file of a run is noticed where the file is read, and repaired by a resume where it can be."""

import random
import shutil
import signal
from contextlib import suppress

import pytest

from core.common.errors import Damaged, Interrupted, Unfinished, UserError
from core.launch import Launch
from core.record import journal
from core.record.run import RECORD, WEIGHTS
from core.runs import results
from core.runs.recorder import RunInfo, RunSpec
from core.runs.resume import resume
from core.runs.train import opened, train
from core.runs.trained import Run
from core.training import checkpoint
from core.training.runtime import open_runtime
from experiments.tiny import EXPERIMENT
from tests.support.runs import digest, points

SHORT = EXPERIMENT.but({"epochs": 3, "limit": 320, "monitor": "val/accuracy"})  # of five steps each
QUIET = Launch(mlflow=False, threads=1, workers=0, checkpoint_every="1000")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(home))
        return train(SHORT, QUIET, "tiny")


@pytest.fixture
def run(finished, home):
    copy = Run(home / "mlruns" / "runs" / finished.id)
    shutil.copytree(finished.folder, copy.folder)
    return copy


def _flip(path, place=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 1
    path.write_bytes(content)


def _flips(path, count, below=None):
    """Each of `count` files with one flipped bit."""
    whole, luck = path.read_bytes(), random.Random(0)
    for _ in range(count):
        content = bytearray(whole)
        content[luck.randrange(below or len(whole))] ^= 1 << luck.randrange(8)
        path.write_bytes(content)
        yield


def test_a_flipped_bit_in_the_weights_is_noticed(run):
    for _ in _flips(run.folder / "artifacts" / WEIGHTS, 20):
        with pytest.raises(UserError, match=r"best\.safetensors: damaged: .* digest"):
            _ = run.model


def test_a_flipped_bit_in_the_record_is_noticed(run):
    for _ in _flips(run.folder / "artifacts" / RECORD, 50):
        with pytest.raises(UserError, match=r"record\.json: damaged"):
            _ = Run(run.folder).record


def test_a_flipped_bit_in_the_journal_is_noticed(run):
    path = run.folder / journal.FILE
    whole = [event for _, event in journal.read(run.folder)]
    for _ in _flips(path, 100, path.stat().st_size - 1):  # without its last line break, the last line is torn
        with suppress(UserError):
            read = [event for _, event in journal.read(run.folder)]
            # the name of the checksum is hit: nothing else is
            assert [{name: now[name] for name in was} for was, now in zip(whole, read, strict=True)] == whole


def test_a_flipped_bit_in_a_checkpoint_and_its_header_is_noticed(run):
    (path,) = checkpoint.generations(run.folder / checkpoint.CHECKPOINTS)
    whole = checkpoint.read(path)
    header = path.read_bytes().index(b"\n")
    for below in (header, None):
        for _ in _flips(path, 50, below):
            with suppress(Damaged):
                found = checkpoint.read(path)
                assert (found.step, found.belongs) == (whole.step, whole.belongs)  # the name of the digest is hit


def _stopped(step, validated, launch=QUIET):
    """A run that was interrupted after a step, and after the validation that follows it."""
    spec = RunSpec(SHORT, launch, RunInfo("tiny"))
    with suppress(Interrupted), open_runtime(launch, None) as runtime, opened(spec, runtime) as trainer:
        for event in trainer.events():
            if event.step == step and (event.validation is not None) == validated:
                state = trainer.parts.state
                trainer.journal.sync()
                checkpoint.save(trainer.run.folder / checkpoint.CHECKPOINTS, step, state.snapshot(), {})
                raise Interrupted(signal.SIGTERM, "stopped")
    return trainer.run


@pytest.mark.parametrize("harm", [_flip, lambda path: path.write_bytes(b""), lambda path: path.unlink()],
                         ids=["flipped", "empty", "gone"])  # fmt: skip
@pytest.mark.parametrize(("step", "validated", "said"), [(10, True, "restored from the checkpoint"),
                         (12, False, "no checkpoint holds these weights")])  # fmt: skip
def test_weights_that_are_lost_before_a_resume_are_restored_or_trained_again(
    harm, step, validated, said, finished, home, capsys
):
    stopped = _stopped(step, validated)
    harm(stopped.folder / "artifacts" / WEIGHTS)
    assert digest(resume(stopped)) == digest(finished)
    assert stopped.status == "FINISHED"
    assert said in capsys.readouterr().out
    assert points(stopped) == points(finished)


def test_weights_that_are_damaged_before_the_test_are_not_tested(finished, home, monkeypatch):
    def harm(*given):
        (folder,) = (home / "mlruns" / "runs").iterdir()
        _flip(folder / "artifacts" / WEIGHTS)

    monkeypatch.setattr(Run, "seconds", property(lambda run: 1.0))
    monkeypatch.setattr("core.runs.trainer.test", lambda journal, parts: (harm(), results.test(journal, parts)))
    with pytest.raises(Unfinished, match="does not match its digest"):
        train(SHORT, QUIET, "tiny")
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    (folder,) = (home / "mlruns" / "runs").iterdir()
    assert Run(folder).status == "KILLED"
    assert digest(resume(Run(folder))) == digest(finished)


@pytest.mark.parametrize("validated", [False, True])
def test_layers_of_an_epoch_at_whose_end_a_run_was_killed_are_on_record(validated, home):
    launch = QUIET.but({"diagnose": True})
    whole, stopped = train(SHORT, launch, "tiny"), _stopped(10, validated, launch)
    resume(stopped)
    assert points(stopped) == points(whole)
    assert any(name.endswith("update_ratio") and len(found) == 3 for name, found in points(stopped).items())


def test_an_error_that_a_resume_resolved_is_marked(finished, home, monkeypatch):
    def broken(*given):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("core.runs.trainer.test", broken)
    with pytest.raises(ZeroDivisionError):
        train(SHORT, QUIET, "tiny")
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    (folder,) = (home / "mlruns" / "runs").iterdir()
    run = Run(folder)
    assert run.tags["error"] == "ZeroDivisionError: a bug"
    resume(run)
    assert run.tags["error"] == "resolved: the run was resumed: ZeroDivisionError: a bug"
    text = run.artifact("error.txt").read_text()
    assert text.startswith("resolved")
    assert "Traceback" in text
