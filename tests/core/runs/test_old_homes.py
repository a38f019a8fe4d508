"""A home that was written before the modules moved: today's code reads all of it and continues what was interrupted."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import optuna
import pytest

from core.cli.main import experiment as main
from core.common import paths
from core.compare.runs import rows
from core.declare.renamed import migrated
from core.launch import Launch
from core.record import journal
from core.record.journal import FILE
from core.record.run import WEIGHTS, holds_others
from core.runs.resume import resume
from core.runs.train import train
from core.runs.trained import Run, load, read_declaration
from core.search.search import search
from core.search.trial import runs_by_trial
from core.training.assemble import load_splits
from core.training.checkpoint import CHECKPOINTS, generations
from tests.fixtures.write_home_v1 import FULL, INFO, LAUNCH, OWN, SLURM, SPACE, STUDIED, STUDIES, WORDS
from tests.support.optional import library

ARCHIVE = Path(__file__).parents[2] / "fixtures" / "home_v1.tar.xz"
CLASS = re.compile(r'("class": ")(core|data|experiments\.\w+)\.[\w.]+\.(\w+")')


@pytest.fixture(params=["as written", "moved"])
def old(request, home):
    """The home as it was written, and with every class recorded in a module that does not exist."""
    unpack(home)
    if request.param == "moved":
        assert move(home) > 200
    return home


@pytest.fixture
def moved(home):
    """The home with every class recorded in a module that does not exist."""
    unpack(home)
    move(home)
    return home


def unpack(home):
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(home, filter="data")


def move(home):
    """How many classes were renamed."""
    count = 0
    for path in home.rglob("*.json"):
        text, found = CLASS.subn(r"\1\2.somewhere.else.\3", path.read_text())
        path.write_text(text)
        count += found
    return count


def runs():
    return [Run(path) for path in sorted(paths.runs().iterdir())]


def called(words):
    """The run whose name for people has these words."""
    (found,) = [run for run in runs() if words in run.opening["name"] and run.record["parent"] is None]
    return found


def below(parent):
    return [run for run in runs() if run.record["parent"] == parent.id]


def journals():
    return {run.id: (run.folder / FILE).read_bytes() for run in runs()}


def continued(before, *interrupted):
    """These runs were written on from where they had been, and have ended; no epoch was trained again."""
    for run in interrupted:
        assert (run.folder / FILE).read_bytes().startswith(before[run.id])
        assert run.status == "FINISHED"
        events = [event for _, event in journal.read(run.folder) if event["event"] == "metrics"]
        epochs = [event["step"] for event in events if "train/loss" in event["values"]]
        assert set(epochs) == set(range(1, run.experiment.epochs + 1))
        assert epochs.count(1) == 1


def command(package, words, capsys):
    """(exit status, output) of a command line in this process."""
    with pytest.raises(SystemExit) as left:
        main(package, words)
    return left.value.code, capsys.readouterr().out


def bare(record):
    """A record whose classes are named without their modules."""
    if isinstance(record, dict):
        return {name: value.rsplit(".", 1)[-1] if name == "class" else bare(value) for name, value in record.items()}
    return [bare(item) for item in record] if isinstance(record, list) else record


def recorded_of(now, recorded):
    """What a declaration has now of the fields that its record has: parts have got others since."""
    if not isinstance(recorded, dict):
        return now
    return {name: recorded_of(now[name], value) for name, value in recorded.items()}


def test_declarations_are_read(old):
    assert called("many parts").experiment == FULL.but({"ema.warmup": False})  # which there was not
    assert called("a part of its own").experiment == OWN
    assert called("study running").experiment == STUDIED
    for run in runs():
        recorded, now = run.record["declaration"], run.experiment.record()
        assert recorded_of(bare(now), bare(recorded)) == bare(recorded)
        defaults = run.experiment.defaults()
        for name in now.keys() - recorded.keys():  # fields that there were not
            assert run.experiment.flat()[name] == defaults[name]
    assert read_declaration(called("study running").id).loss in SPACE["loss"].options.values()


def test_every_kind_of_part_is_read(old):
    recorded = json.loads((old / "parts.json").read_text())
    assert sum(map(len, recorded.values())) > 50
    for field, records in recorded.items():
        for old_record in records:
            record = migrated(old_record, field)
            read = getattr(STUDIED.but({field: [record] if field == "augment" else record}), field)
            now = (read[0] if field == "augment" else read).record()
            assert recorded_of(bare(now), bare(record)) == bare(record)


def test_networks_answer_as_they_did(old):
    run = called("many parts")
    test = load_splits(run.experiment, Launch()).test
    answers = run.predict(np.asarray(test.pixels[test.rows]))
    accuracy = (answers.argmax(axis=1) == test.targets).mean()
    assert accuracy == pytest.approx(run.metrics["test/accuracy"], abs=0.01)
    kept = [run for run in runs() if (run.folder / "artifacts" / WEIGHTS).exists()]
    assert len(kept) > 10
    assert all(not run.model.training for run in kept)


def test_runs_are_compared(old):
    found, unread = rows(["digits_cnn"])
    assert len(found) == sum(run.id.startswith("digits_cnn") and not holds_others(run.record) for run in runs())
    assert unread == []


@pytest.mark.parametrize("words", ["schedule=OneCycle", "ema.decay=0.9"], ids=["terminated", "killed"])
def test_an_interrupted_run_is_finished(moved, words, capsys):
    run, before = called(words), journals()
    step = int(generations(run.folder / CHECKPOINTS)[0].stem)
    resume(run)
    assert f"{run.id} resumes after step {step}" in capsys.readouterr().out
    continued(before, run)


def test_a_finished_run_is_trained_for_longer(moved):
    run = called("a part of its own")
    longer = train(run.experiment.but({"epochs": OWN.epochs + 1}), LAUNCH, INFO, continued=run)
    assert list(longer.history["train/loss"]) == [OWN.epochs + 1]


def test_a_requeued_job_finds_its_run(moved, capsys, monkeypatch):
    """What a job in the queue runs again is a pickle of submitit's, which names modules by itself."""
    submitit = library("submitit.core.utils", extra="slurm")
    (submission,) = paths.launches().glob("*/*_submitted.pkl")
    task = submitit.DelayedSubmission.load(submission).function
    job = submission.name.partition("_")[0]
    monkeypatch.setenv("LABBOOK_INVOCATION", f"local {job} {task.launch}")
    run, before = called("augment=RandomCrop,Cutout"), journals()
    status, text = command(task.words[0], task.words[1:], capsys)
    assert status == 0
    assert f"{run.id}, started by an earlier start of this job, is resumed" in text
    assert len(runs()) == len(before)
    continued(before, run)


def test_requeued_seeds_are_finished(moved, capsys, monkeypatch):
    for name, value in {**SLURM, "SLURM_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    parent, before = called("3 seeds"), journals()
    first, second = below(parent)
    status, _ = command("experiments.digits_cnn", WORDS["seeds"], capsys)
    assert status == 0
    assert load(parent.id).status == "FINISHED"
    assert [run.record["declaration"]["seed"] for run in below(parent)] == [0, 1, 2]
    assert journals()[first.id] == before[first.id]
    continued(before, second)


@pytest.mark.usefixtures("warm")
def test_a_study_is_continued(moved):
    before = journals()
    options, seeds = STUDIES["running"]
    study = search(STUDIED, SPACE, options, LAUNCH, INFO, seeds).study
    assert [trial.state for trial in study.get_trials()] == [optuna.trial.TrialState.COMPLETE] * options.trials
    by_trial = runs_by_trial(called("study running"))
    assert sorted(by_trial) == list(range(options.trials))
    assert set(journals()) - set(before) == {by_trial[4].id}
    assert all(journals()[by_trial[number].id] == before[by_trial[number].id] for number in range(3))
    continued(before, by_trial[3])


@pytest.mark.usefixtures("warm")
def test_a_confirmation_is_continued(moved):
    before = journals()
    parent = called("study confirming")
    first, second = [run for run in below(parent) if run.record["trial"] is None]
    options, seeds = STUDIES["confirming"]
    (confirmed,) = search(STUDIED, SPACE, options, LAUNCH, INFO, seeds).confirmed
    assert len(confirmed.values) == seeds
    assert len(runs()) == len(before) + 1
    assert journals()[first.id] == before[first.id]
    continued(before, second)
