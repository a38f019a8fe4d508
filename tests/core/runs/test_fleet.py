"""Seeds trained together leave the record of seeds trained in turn, and end and go on as those do."""

import errno
import signal
import time

import pytest
import torch

from core import randomness
from core.common.errors import OutOfMemory, Unfinished, UserError
from core.launch import Launch
from core.loading.folds import Folds
from core.methods import Method, Output
from core.models import MLP
from core.options import parse
from core.record import journal
from core.runs.rerun import check_environment, launch_of
from core.runs.resume import resume
from core.runs.seeds import resume_seeds, train_folds, train_seeds
from core.runs.train import train
from core.runs.trained import Run, load
from core.training import checkpoint
from core.training.stack import Stack
from experiments.tiny import EXPERIMENT

QUIET = Launch(mlflow=False, threads=1)
TOGETHER = QUIET.but({"together": True})
SMALL = EXPERIMENT.but({"model": MLP(hidden=(16,), dropout=0.2), "epochs": 3, "limit": 300})
PROGRAM = "experiments.tiny"
WORDS = (PROGRAM, "--model", "MLP", "--model.hidden", "16", "--model.dropout", "0.2", "--limit", "300",
         "--mlflow", "false", "--threads", "1", "--checkpoint_every", "5", "--seeds", "2", "--together")  # fmt: skip
MEASURED = ("step/", "train/", "val/", "test/", "lr")


class PoisonedOnce(Method):
    """The loss of one image is not a number, at one step."""

    sample: int
    at: int

    def step(self, model, loss, batch, clock):
        logits = model(batch.images)
        poisoned = (batch.index == self.sample) & (clock.step == self.at)
        return Output(torch.where(poisoned, torch.nan, loss(logits, batch.targets)), logits)


def artifacts(run):
    return {event["path"] for _, event in journal.read(run.folder) if event["event"] == "artifact"}


def assert_alike(run, other):
    ours, theirs = run.history, other.history
    names = [name for name in theirs if name.startswith(MEASURED)]
    assert {name: ours[name] for name in names} == {name: pytest.approx(theirs[name], rel=1e-3) for name in names}
    assert artifacts(run) == artifacts(other)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(seeds trained together, seeds trained in turn)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        yield train_seeds(SMALL, 2, TOGETHER, "tiny"), train_seeds(SMALL, 2, QUIET, "tiny")


def test_every_seed_and_the_parent_are_on_record_as_if_trained_in_turn(both):
    together, in_turn = both
    for run, other in zip(together.runs, in_turn.runs, strict=True):
        assert_alike(run, other)
        assert (run.status, run.experiment, run.record["parent"]) == ("FINISHED", other.experiment, together.parent.id)
    for name, value in in_turn.parent.metrics.items():
        if name.startswith(("test/", "seeds")):
            assert together.parent.metrics[name] == pytest.approx(value, rel=0.02, abs=1e-3)
    assert together.parent.status == "FINISHED"


def test_a_rerun_says_that_the_seed_was_trained_with_others(both):
    run = both[0].runs[0]
    launch = launch_of(run, None)
    assert not launch.together
    (machine,) = [check for check in check_environment(run, launch) if check.what == "machine"]
    assert "trained together with other runs then, alone now" in machine.differences


def saved_steps(home):
    paths = (home / "mlruns" / "runs").glob("*/checkpoints/*.checkpoint")
    steps = {}
    for path in paths:
        steps.setdefault(path.parent.parent.name, []).append(int(path.stem))
    return {name: max(found) for name, found in steps.items()}


def stopped_at(process, home, number):
    """Send a signal once both seeds have a checkpoint, and wait for the end."""
    end = time.monotonic() + 60
    while len(saved_steps(home)) < 2 and time.monotonic() < end:
        time.sleep(0.005)
    process.kill(number)
    return process.wait()


def test_a_signal_saves_all_seeds_at_one_step_and_they_go_on_together_or_alone(forge, home):
    process = forge.start(*WORDS, "--epochs", "40")
    assert stopped_at(process, home, signal.SIGTERM) == 128 + signal.SIGTERM, process.text
    runs = [load(path.name) for path in (home / "mlruns" / "runs").iterdir()]
    assert [run.status for run in runs] == ["KILLED"] * 3
    (parent,) = [run for run in runs if "seeds" in run.record]
    assert f"resume {parent.id}" in process.text
    assert len(set(saved_steps(home).values())) == 1
    first, second = sorted((run for run in runs if run != parent), key=lambda run: run.experiment.seed)
    resume(first)
    seeds = resume_seeds(parent)
    assert [run.id for run in seeds.runs] == [first.id, second.id]
    assert parent.status == "FINISHED"
    again = train_seeds(first.experiment, 2, QUIET, "tiny")
    for run, other in zip(seeds.runs, again.runs, strict=True):
        # one of many steps may differ by more, where rounding decides for a class
        assert run.history["val/loss"] == pytest.approx(other.history["val/loss"], rel=0.01)


@pytest.mark.slow
def test_killed_seeds_go_on_together(forge, home):
    process = forge.start(*WORDS, "--epochs", "40")
    assert stopped_at(process, home, signal.SIGKILL) == -signal.SIGKILL
    status, text = forge.run(PROGRAM, "resume")
    assert status == 0, text
    runs = [load(path.name) for path in (home / "mlruns" / "runs").iterdir()]
    assert [run.status for run in runs] == ["FINISHED"] * 3


def test_one_seed_fails_and_the_others_go_on(home):
    steps = [randomness.permutation(seed, 0, 300)[64 * 2 : 64 * 3] for seed in range(3)]
    sample = next(int(one) for one in steps[1] if one not in steps[0] and one not in steps[2])
    poisoned = SMALL.but({"method": PoisonedOnce(sample=sample, at=2), "epochs": 2})
    seeds = train_seeds(poisoned, 3, TOGETHER)
    assert list(seeds.failed) == [1]
    assert seeds.failed[1].startswith("NonFinite: loss or gradient not finite at step 3 (epoch 1)")
    assert f"training images ({sample})" in seeds.failed[1]
    assert [run.experiment.seed for run in seeds.runs] == [0, 2]
    assert seeds.parent.status == "FAILED"
    assert sorted(run.status for run in Run.of_experiment("notebook")) == ["FAILED", "FAILED", "FINISHED", "FINISHED"]


def test_a_full_disk_stops_all_seeds_and_they_can_be_resumed(home, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(Unfinished, match="No space left") as error:
            train_seeds(SMALL, 2, TOGETHER.but({"checkpoint_every": "5"}))
    parent = load(error.value.run)
    assert [run.status for run in Run.of_experiment("notebook")] == ["KILLED"] * 3
    assert len(resume_seeds(parent).runs) == 2
    assert [run.status for run in Run.of_experiment("notebook")] == ["FINISHED"] * 3


def test_memory_that_runs_out_names_fewer_seeds_as_the_remedy(home, monkeypatch, capsys):
    gradients, calls = Stack.gradients, []

    def scarce(stack, *given):
        calls.append(given)
        if len(calls) == last:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return gradients(stack, *given)

    monkeypatch.setattr(Stack, "gradients", scarce)
    last = 1
    with pytest.raises(UserError, match=r"^out of memory: CUDA out of memory.*; leave out --together$"):
        train_seeds(SMALL, 2, TOGETHER)
    calls, last = [], 3
    with pytest.raises(OutOfMemory, match="train fewer runs at once"):
        train_seeds(SMALL, 2, TOGETHER)
    assert "digits: 10 classes (0, 1, 2" in capsys.readouterr().out


def test_together_is_of_several_seeds(home):
    with pytest.raises(UserError, match="--together: trains several seeds at once; add --seeds N"):
        parse(["--together"], EXPERIMENT, {})
    with pytest.raises(UserError, match="train_seeds"):
        train(SMALL, TOGETHER)
    with pytest.raises(UserError, match="folds have different images"):
        train_folds(SMALL, Folds(3), TOGETHER)
    with pytest.raises(UserError, match="optimizer: SAM"):
        train_seeds(SMALL.but({"optimizer": "SAM"}), 2, TOGETHER)
    assert not list((home / "mlruns").glob("runs/*"))
