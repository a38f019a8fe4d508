"""Random SIGKILLs: whatever was trained, wherever it died, `resume` ends in the same bits."""

import os
import random

import pytest

from core.augment import Albumentation, RandomCrop
from core.common.errors import UserError
from core.launch import Launch
from core.record.journal import Journal, log_text
from core.record.run import RECORD
from core.record.summary import SUMMARY
from core.runs import trainer as module
from core.runs.resume import interrupted, resume
from core.runs.train import train
from experiments.tiny import EXPERIMENT
from tests.support import kills
from tests.support.kills import Differs, Moment, Setup

SHORT = EXPERIMENT.but({"epochs": 1, "limit": 100, "stopping": None})
OFFLINE = Launch(mlflow=False, threads=1)


# of all seeds, five that between them have each part of the space, and die with checkpoints behind them
SEEDS = (0, 3, 12, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (10, 13)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_kill_changes_nothing(seed, forge, tmp_path):
    luck = random.Random(f"suite {seed}")
    declared = kills.declaration(seed)
    expected = kills.undisturbed(forge.start, declared, tmp_path / "undisturbed")
    setup = Setup(declared, kills.launch(luck))
    assert kills.killed(forge.start, setup, tmp_path / "killed", luck, 1, expected)


def test_the_proof_itself_notices_a_difference(forge, tmp_path):
    declared = kills.declaration(0)
    expected = kills.undisturbed(forge.start, declared, tmp_path / "one")
    other = Setup((*declared, "--optimizer.weight_decay", "0.01"))
    with pytest.raises(Differs, match="weights"):
        kills.finish_killed(forge.start, other, tmp_path / "two", iter([Moment(step=3)]), expected)


class Died(BaseException):
    """In place of a SIGKILL: nothing of labbook's own catches it."""


@pytest.mark.parametrize("step", ["provenance.packages", "sources.snapshot"])
def test_what_dies_before_its_record_is_no_run(step, home, monkeypatch):
    """A run that could be resumed then would lack the artifacts that were still to come."""
    monkeypatch.setattr(module, "close", lambda *arguments: None)
    monkeypatch.setattr(f"core.record.{step}", lambda *given: (_ for _ in ()).throw(Died))
    with pytest.raises(Died):
        train(SHORT, OFFLINE, "tiny")
    with pytest.raises(UserError, match="no interrupted run"):
        interrupted("tiny")


def test_a_record_is_whole_or_not_there_and_is_reported_by_whoever_goes_on(home, monkeypatch):
    log_artifact = Journal.log_artifact

    def dies(journal, name):
        if name == RECORD:
            raise Died
        log_artifact(journal, name)

    monkeypatch.setattr(module, "close", lambda *arguments: None)
    monkeypatch.setattr(Journal, "log_artifact", dies)
    with pytest.raises(Died):
        train(SHORT, OFFLINE, "tiny")
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    run = resume(interrupted("tiny"))
    assert RECORD in kills.artifacts(run)
    torn = run.folder / "torn"
    monkeypatch.setattr(os, "replace", lambda *arguments: (_ for _ in ()).throw(Died))
    with pytest.raises(Died):
        log_text(Journal(torn), RECORD, "{}")
    assert not (torn / "artifacts" / RECORD).exists()


def test_a_run_that_has_ended_is_never_without_its_summary(home, monkeypatch):
    close = Journal.close

    def looks(journal, status):
        assert (journal.folder / SUMMARY).exists()
        close(journal, status)

    monkeypatch.setattr(Journal, "close", looks)
    run = train(SHORT, OFFLINE, "tiny")
    assert run.status == "FINISHED"
    assert f'"status": "{run.status}"' in (run.folder / SUMMARY).read_text()


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_loader_workers_change_nothing(home):
    """Whole runs with albumentations in the loader, over 0, 1, 2 and 4 workers: every bit and every point."""
    steps = (Albumentation(name="ColorJitter"), RandomCrop(padding=1))
    experiment = SHORT.but({"augment": steps, "epochs": 2, "batch_size": 20})
    runs = [train(experiment, OFFLINE.but({"workers": count}), "tiny") for count in (0, 1, 2, 4)]
    alone, *others = map(kills.outcome_of, runs)
    for other in others:
        assert not alone.differences(other)
