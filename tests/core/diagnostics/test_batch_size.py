"""--batch_size auto, tried on a CPU with memory that runs out where the test wants it."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from core.cli import main as command
from core.common.errors import UserError
from core.common.ranks import Ranks
from core.diagnostics import batch_size
from core.diagnostics.batch_size import fitting, largest_batch
from core.launch import Launch
from core.methods import Supervised
from core.models import SmallCNN
from core.optimizers import SAM, AdamW
from core.runs.resume import earlier_run
from experiments.tiny import EXPERIMENT
from tests.support.loop import BASE, Rooted
from tests.support.memory import Tight, run_out
from tests.support.runs import only_run

CPU = Launch(device="cpu", mlflow=False, threads=1)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """The heap of a test process takes long to look through, and nothing here has run out."""
    monkeypatch.setattr("core.common.memory.gc.collect", lambda: 0)


def found(changes):
    experiment = BASE.but(changes)
    return fitting(experiment, experiment.data.load(), CPU)


class Thawed(Supervised):
    """Memory for four images once the first layer is trained."""

    def step(self, model, loss, batch, clock):
        if next(model.parameters()).requires_grad and len(batch.images) > 4:
            run_out()
        return super().step(model, loss, batch, clock)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 32),  # of 40 training images
        ({"method": Tight(images=31)}, 16),
        ({"method": Tight(images=2)}, 2),
        ({"method": Tight(images=4), "grad_accum_steps": 2}, 8),
        ({"method": Tight(images=11), "model": SmallCNN(widths=(8,)), "optimizer": SAM()}, 8),
        ({"method": Tight(images=8), "optimizer": AdamW(lr=0.1), "ema": {"class": "Ema"}}, 8),
        ({"method": Thawed(), "freeze": {"class": "Freeze", "unfreeze_epoch": 2}}, 4),
        ({"method": Rooted()}, 32),  # the loss of a trial need not be finite
    ],
)
def test_the_largest_power_of_two_that_fits(changes, size):
    assert found(changes)[0] == size


def test_nothing_fits_or_nothing_can_be_tried():
    with pytest.raises(UserError, match="not even 2 images fit"):
        found({"method": Tight(images=1)})
    with pytest.raises(UserError, match="grad_accum_steps 3 divides no power of two"):
        found({"grad_accum_steps": 3, "batch_size": 9})


def test_the_trial_changes_no_weight():
    """The learning rate is 0, so that no trial leaves weights that are not finite, whose steps would be skipped."""
    experiment = BASE.but({"optimizer": AdamW(lr=100.0)})
    parts = batch_size.assemble(experiment, experiment.data.load(), CPU)
    before = [weight.clone() for weight in parts.state.model.parameters()]
    assert batch_size._fits(parts, next(iter(parts.train.epoch(0))))
    assert all(a.equal(b) for a, b in zip(before, parts.state.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--device", "cpu"], "--batch_size auto: only for GPUs: the device is cpu"),
        (["train", "--smoke"], "--batch_size auto: --smoke and --overfit choose the batch size"),
        (["search"], "--batch_size auto: only for training, not for search"),
        (["summary"], "--batch_size auto: only for training, not for summary"),
    ],
)
def test_where_it_is_refused(words, message, capsys):
    verb, *rest = words
    assert command.run(verb, ["experiments.tiny", "--batch_size", "auto", *rest], command.VERBS) == 2
    said = capsys.readouterr()
    assert message in said.out + said.err


def test_several_processes_are_refused(monkeypatch):
    runtime = SimpleNamespace(ranks=Ranks(ranks=2))
    monkeypatch.setattr(batch_size, "open_runtime", lambda *given: nullcontext(runtime))
    with pytest.raises(UserError, match="only in a single process"):
        largest_batch(BASE, CPU)


def test_the_number_is_declared_so_that_a_restarted_job_and_a_rerun_find_it(home, monkeypatch):
    monkeypatch.setattr(batch_size, "largest_batch", lambda experiment, launch: 128)
    monkeypatch.setenv("LABBOOK_INVOCATION", "job 7")
    words = ["experiments.tiny", "--epochs", "1", "--limit", "300", "--mlflow", "false", "--threads", "1"]
    assert command.run("train", [*words, "--batch_size", "auto"], command.VERBS) == 0
    run = only_run(home)
    assert run.experiment.batch_size == 128
    assert run.params["batch_size"] == "128"
    assert "batch_size=128" in run.opening["name"]
    asked = EXPERIMENT.but({"epochs": 1, "limit": 300})
    assert earlier_run(asked, "tiny", "job 7") is None
    assert earlier_run(asked, "tiny", "job 7", any_batch_size=True).id == run.id
    assert earlier_run(asked.but({"epochs": 2}), "tiny", "job 7", any_batch_size=True) is None
