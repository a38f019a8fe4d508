"""Training for longer, several seeds after a stop, and the same command begun again by a cluster."""

import signal
import time

import pytest

from core.common.errors import UserError
from core.launch import Launch
from core.runs.resume import resume
from core.runs.seeds import resume_seeds, train_seeds
from core.runs.train import train
from core.runs.trained import load
from experiments.tiny import EXPERIMENT
from tests.support.processes import wait_for_step
from tests.support.runs import digest, only_run, points

PROGRAM = "experiments.tiny"
QUIET = Launch(mlflow=False, threads=1)
SHORT = EXPERIMENT.but({"epochs": 2, "limit": 300, "schedule": "Constant", "stopping": None})
WORDS = (PROGRAM, "--epochs", "2", "--limit", "300", "--schedule", "Constant", "--mlflow", "false", "--threads", "1")


def test_a_finished_run_trains_on_as_a_new_one_that_says_what_it_continued(forge, home):
    whole = train(SHORT.but({"epochs": 4}), QUIET, "tiny")
    first = train(SHORT, QUIET, "tiny")
    status, text = forge.run(PROGRAM, "--continue", first.id, "--epochs", "4", "--mlflow", "false", "--threads", "1")
    assert status == 0, text
    longer = next(load(p.name) for p in (home / "mlruns" / "runs").iterdir() if p not in (whole.folder, first.folder))
    assert longer.record["continued"] == first.id
    assert longer.record["facts"]["continued"] == first.id
    assert set(longer.history["val/loss"]) == {3, 4}
    assert longer.history["val/loss"] == {epoch: whole.history["val/loss"][epoch] for epoch in (3, 4)}
    assert digest(longer) == digest(whole)


def test_what_is_declared_anew_holds_over_what_the_finished_run_had(home):
    first = train(SHORT, QUIET)
    changed = SHORT.but({"epochs": 3, "optimizer.lr": 0.001, "optimizer.weight_decay": 1e-6})
    longer = train(changed, QUIET, continued=first)
    assert longer.history["lr"] == {3: 0.001}


def test_the_best_epoch_may_be_one_of_the_finished_run(home):
    declared = SHORT.but({"model": "MLP", "augment": (), "monitor": "val/accuracy"})
    first = train(declared, QUIET)
    longer = train(declared.but({"epochs": 3, "optimizer.lr": 2}), QUIET, continued=first)
    assert max(longer.history["test/accuracy"]) <= 2
    assert longer.metrics["test/accuracy"] == first.metrics["test/accuracy"]
    assert digest(longer) == digest(first)


def test_time_that_was_spent_before_counts(home):
    short = SHORT.but({"max_minutes": 60})
    first = train(short, QUIET)
    with pytest.raises(UserError, match="max_minutes ends it at once"):
        train(short.but({"epochs": 3, "max_minutes": 1e-6}), QUIET, continued=first)
    longer = train(short.but({"epochs": 3}), QUIET, continued=first)
    assert longer.history["minutes"][3] > first.history["minutes"][2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "has trained for 2 epochs; set --epochs to more than 2"),
        ({"epochs": 3, "model": "MLP"}, r"does not fit the present declaration: 1 missing .* model\.3\.bias"),
        ({"epochs": 3, "ema.decay": 0.9}, "does not fit the present declaration"),
        (
            {"epochs": 3, "stopping.patience": 1, "stopping.min_delta": 10},
            "max_minutes ends it at once",
        ),
    ],
    ids=["no_more_epochs", "other_model", "other_average", "stopped"],
)
def test_what_cannot_be_continued_is_refused_before_anything_is_recorded(changes, message, home):
    first = train(SHORT, QUIET)
    with pytest.raises(UserError, match=message):
        train(SHORT.but(changes), QUIET, continued=first)
    assert only_run(home).id == first.id


def test_a_run_to_continue_that_is_not_there_is_a_mistake_among_others(forge):
    status, text = forge.run(PROGRAM, "--continue", "nonesuch", "--epochs", "x")
    assert status == 2
    assert "--continue nonesuch: nonesuch: run not found" in text
    assert "epochs" in text.replace("--continue", "")
    assert "Traceback" not in text


def wait_for(home, count):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if len(list((home / "mlruns" / "runs").glob("*/artifacts/record.json"))) >= count:
            return
        time.sleep(0.01)
    raise AssertionError


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=["kill", "term"]
)
def test_several_seeds_go_on_where_they_stood(number, forge, home, tmp_path, monkeypatch):
    words = (*WORDS, "--seeds", "3", "--checkpoint_every", "2")
    process = forge.start(*words)
    wait_for(home, 3)  # the parent, the first seed, the second
    process.kill(number)
    process.wait()
    status, text = forge.run(PROGRAM, "resume")
    assert status == 0, text
    runs = [load(path.name) for path in (home / "mlruns" / "runs").iterdir()]
    assert [run.status for run in runs] == ["FINISHED"] * 4
    (parent,) = [run for run in runs if "seeds" in run.record]
    seeds = sorted((run for run in runs if run != parent), key=lambda run: run.record["declaration"]["seed"])
    assert [run.record["parent"] for run in seeds] == [parent.id] * 3
    assert f"resume {parent.id}" in process.text or number == signal.SIGKILL
    monkeypatch.setenv("LABBOOK_HOME", str(tmp_path))
    again = train_seeds(SHORT, 3, QUIET, "tiny")
    assert [points(run) for run in again.runs] == [points(run) for run in seeds]
    assert again.parent.history == parent.history


def test_finished_seeds_are_not_resumed(home):
    seeds = train_seeds(SHORT, 2, QUIET, "tiny")
    with pytest.raises(UserError, match="is FINISHED"):
        resume_seeds(seeds.parent)


def test_the_same_command_begun_again_by_a_cluster_goes_on(forge, home):
    """As Slurm does after a preemption: the same job, its restarts counted."""
    words = (*WORDS, "--checkpoint_every", "2")
    process = forge.start(*words, env={"SLURM_JOB_ID": "77"})
    wait_for_step(home, 3)
    process.kill(signal.SIGKILL)
    process.wait()
    again = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1"}
    status, text = forge.run(*words, env=again)
    assert status == 0, text
    run = only_run(home)
    assert run.status == "FINISHED"
    status, text = forge.run(*words, env=again)
    assert (status, "has finished" in text) == (0, True), text
    assert only_run(home).id == run.id
    for other in ({"SLURM_JOB_ID": "78", "SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "77"}):
        status, text = forge.run(*words, env=other)
        assert "started by an earlier start" not in text
    assert len(list((home / "mlruns" / "runs").iterdir())) == 3


def test_a_continued_run_that_was_killed_at_once_resumes_from_what_it_continued(home, monkeypatch):
    first = train(SHORT, QUIET)
    whole = train(SHORT.but({"epochs": 3}), QUIET, continued=first)
    from core.runs import trainer as module

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_record", crash)
    with pytest.raises(KeyboardInterrupt):
        train(SHORT.but({"epochs": 3}), QUIET, continued=first)
    monkeypatch.undo()
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    stopped = next(
        run for run in map(load, (p.name for p in (home / "mlruns" / "runs").iterdir())) if run.status == "KILLED"
    )
    assert digest(resume(stopped)) == digest(whole)
