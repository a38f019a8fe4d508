"""Studies as a user runs them: real workers, killed at bad moments, and what is on record at the end."""

import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import optuna
import pytest

from core.common.errors import Failing, UserError
from core.launch import Launch
from core.optimizers import SGD
from core.runs.recorder import RunInfo
from core.runs.trained import load
from core.search import Choice, Float
from core.search.objectives import Goals, goals_of, number
from core.search.options import Search
from core.search.plots import log_plots
from core.search.pool import LocalProcess, Pool, Worker
from core.search.search import search
from core.search.storage import open_storage
from core.search.study import StudyRunner
from core.search.trial import Task, runs_by_trial
from experiments.tiny import EXPERIMENT
from tests.support.browser import chromium
from tests.support.runs import digest
from tests.support.studies import children, parent_of, wait_for

PROGRAM = "experiments.tiny"
WORDS = (PROGRAM, "search", "--goal", "val/accuracy", "--limit", "320", "--epochs", "3", "--threads", "1")
TINY = EXPERIMENT.but({"limit": 320, "epochs": 2, "monitor": "val/accuracy"})
SPACE = {"optimizer.lr": Float(0.01, 1.0, log=True), "model.widths": Choice((4,), (8,))}
OFFLINE = Launch(mlflow=False, threads=1)


def study_of(home, name="tiny"):
    folder = home / "mlruns" / "studies" / name
    return optuna.load_study(study_name=name, storage=open_storage(None, folder))


def finished(home):
    """How many trials have ended."""
    try:
        states = [trial.state for trial in study_of(home).get_trials(deepcopy=False)]
    except (KeyError, OSError):
        return 0
    return sum(state.is_finished() for state in states)


def test_a_study_survives_the_death_of_a_worker_and_of_its_parent(forge, home):
    from mlflow import MlflowClient

    words = (*WORDS, "--trials", "6", "--workers", "2", "--pruner", "none", "--checkpoint-every", "2")
    process = forge.start(*words)
    wait_for(lambda: finished(home) >= 1, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    wait_for(lambda: finished(home) >= 3, process)
    assert "another worker resumes the trial" in process.text
    orphans = children(process.pid)
    process.kill()
    end = time.monotonic() + 60
    while any(
        Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text() for pid in orphans
    ):
        assert time.monotonic() < end, "workers outlived their parent"
        time.sleep(0.1)

    status, text = forge.run(*words)
    assert status == 0, text
    trials = study_of(home).get_trials(deepcopy=False)
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.COMPLETE] * 6, text
    parent = parent_of(home)
    runs = runs_by_trial(parent)
    assert sorted(runs) == list(range(6))
    for trial in trials:
        run = runs[trial.number]
        assert run.status == "FINISHED"
        assert trial.value == max(run.history["val/accuracy"].values())
        assert len(run.history["val/accuracy"]) == 3
        assert "test/accuracy" not in run.metrics
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    end = time.monotonic() + 60  # the mirror of the killed parent may still be sending
    while True:
        found = client.search_runs([experiment.experiment_id])
        if {r.info.status for r in found} == {"FINISHED"}:
            break
        assert time.monotonic() < end, [(r.info.run_name, r.info.status) for r in found]
        time.sleep(0.2)
    mine = [r for r in found if r.data.tags.get("trial")]
    assert sorted(int(r.data.tags["trial"]) for r in mine) == list(range(6))
    (above,) = [r for r in found if r.data.tags.get("study")]
    assert {r.data.tags["mlflow.parentRunId"] for r in mine} == {above.info.run_id}

    again, text = forge.run(*words)  # all have finished: nothing is trained
    assert again == 0
    assert len(study_of(home).get_trials()) == 6


def test_a_search_waits_for_the_worker_of_a_dead_one_that_is_in_a_long_step(forge, home):
    words = (PROGRAM, "search", "--goal", "val/accuracy", "--limit", "320", "--epochs", "20", "--threads", "1",
             "--trials", "2", "--workers", "1", "--pruner", "none", "--mlflow", "false")  # fmt: skip
    process = forge.start(*words)
    wait_for(
        lambda: finished(home) >= 1 and len(list((home / "mlruns" / "runs").glob("*/artifacts/record.json"))) == 3,
        process,
    )
    (worker,) = children(process.pid)
    os.kill(worker, signal.SIGSTOP)
    try:
        process.kill()
        process.wait()
        process = forge.start(*words)
        wait_for(lambda: f"waiting for process {worker}" in process.text, process)
    finally:
        os.kill(worker, signal.SIGCONT)
    assert process.wait() == 0, process.text
    trials = study_of(home).get_trials(deepcopy=False)
    assert [trial.state for trial in trials] == [optuna.trial.TrialState.COMPLETE] * 2, process.text


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forty_trials_are_reported_once_however_often_workers_and_parents_die(forge, home):
    """Ten workers and three parents are killed at random moments."""
    import random

    luck = random.Random(0)
    words = (PROGRAM, "search", "--goal", "val/accuracy", "--epochs", "24", "--threads", "1", "--trials", "40",
             "--workers", "2", "--checkpoint-every", "5")  # fmt: skip
    dead = 0
    for kills in (4, 3, 3):
        process = forge.start(*words)
        for _ in range(kills):
            time.sleep(luck.uniform(4, 16))
            wait_for(lambda process=process: len(children(process.pid)) == 2, process)
            os.kill(children(process.pid)[0], signal.SIGKILL)  # the older: one that dies thrice in a trial fails it
            dead += 1
        time.sleep(luck.uniform(1, 12))
        assert not process.ended, process.text
        process.kill()
        process.wait(60)
    assert dead == 10
    status, text = forge.run(*words, timeout=900)
    assert status == 0, text
    trials = study_of(home).get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished()]
    assert len(ended) == len(trials) == 40, text
    parent = parent_of(home)
    runs = runs_by_trial(parent)
    assert sorted(runs) == list(range(40))
    assert {run.status for run in runs.values()} == {"FINISHED"}
    records = [json.loads(p.read_text()) for p in (home / "mlruns" / "runs").glob("*/artifacts/record.json")]
    numbers = [record["trial"] for record in records if record["trial"] is not None]
    assert sorted(numbers) == list(range(40)), "a trial was trained as two runs"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"FINISHED"}


@pytest.mark.slow
def test_ctrl_c_stops_a_study_and_the_same_command_goes_on(forge, home):
    words = (*WORDS, "--trials", "4", "--workers", "1", "--mlflow", "false")
    process = forge.start(*words)
    wait_for(lambda: finished(home) >= 1, process)
    process.kill(signal.SIGINT)
    assert process.wait(120) == 130, process.text
    assert "to continue it, run the same command" in process.text
    assert parent_of(home).status == "KILLED"
    assert not any(run.status == "RUNNING" for run in runs_by_trial(parent_of(home)).values())
    status, text = forge.run(*words)
    assert status == 0, text
    assert [t.state.is_finished() for t in study_of(home).get_trials()] == [True] * 4
    assert parent_of(home).status == "FINISHED"


@pytest.fixture(scope="module")
def found(tmp_path_factory, warm):
    """A study of seven trials with its plots, its best two confirmed, in this process."""
    patch = pytest.MonkeyPatch()
    patch.setattr("core.search.search.log_plots", log_plots)
    home = tmp_path_factory.mktemp("study")
    patch.setenv("LABBOOK_HOME", str(home))
    result = search(TINY, SPACE, Search(trials=7, confirm=2), OFFLINE, "tiny", seeds=2)
    result.parent.record  # noqa: B018 - read while the home stands
    yield home, result
    patch.undo()


def test_the_first_trial_is_the_declaration(found, monkeypatch):
    home, result = found
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    run = runs_by_trial(result.parent)[0]
    assert run.experiment == TINY
    assert result.study.trials[0].params == {"optimizer.lr": TINY.optimizer.lr}


def test_the_winner_is_judged_on_fresh_seeds_and_its_declaration_kept(found, monkeypatch):
    home, result = found
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    assert len(result.confirmed) == 2
    assert {len(confirmed.values) for confirmed in result.confirmed} == {2}
    assert result.confirmed[0].mean >= result.confirmed[1].mean
    kept = json.loads((result.parent.folder / "artifacts" / "best.json").read_text())
    assert kept["trial"] == result.confirmed[0].trial
    runs = [load(p.name) for p in (home / "mlruns" / "runs").iterdir()]
    fresh = [run for run in runs if run.record["parent"] and run.record["trial"] is None]
    assert sorted(run.record["declaration"]["seed"] for run in fresh) == [1, 1, 2, 2]
    assert all("test/accuracy" in run.metrics for run in fresh)
    assert re.search(r"recommended: trial \d, test accuracy", "\n".join(result.lines))


def test_pictures_and_weights_of_the_best_are_kept(found, monkeypatch):
    home, result = found
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    artifacts = {p.name for p in (result.parent.folder / "artifacts" / "study").iterdir()}
    names = {"history", "importances", "parallel_coordinates", "slices", "intermediate_values"}
    drawn = names - {"parallel_coordinates"}
    assert {f"{name}.png" for name in drawn} | {"study.html", "confirmed.txt"} == artifacts
    page = (result.parent.folder / "artifacts" / "study" / "study.html").read_text()
    assert page.count('class="plotly-graph-div"') == len(names)
    assert f"<h1>{result.study.study_name}</h1>" in page
    table = re.findall(r"<tr>(.*?)</tr>", page.partition("</table>")[0], re.DOTALL)
    assert len(table) == 1 + 7
    cells = re.findall(r"<td>(.*?)</td>", table[1])
    assert cells[0] == str(result.best[0].number)
    assert cells[1] == number(result.goals.names[0], result.best[0].value)
    assert cells[-1] == "complete"
    for value in result.best[0].params.values():
        assert (f"{value:.6g}" if isinstance(value, float) else str(value)) in cells

    runs = runs_by_trial(result.parent)
    best = runs[result.best[0].number]
    assert len(digest(best)) == 64
    with_weights = [n for n, run in runs.items() if (run.folder / "artifacts" / "weights/best.safetensors").exists()]
    assert len(with_weights) < 7


def test_the_page_of_a_study_is_as_wide_as_its_window(found):
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.goto(f"file://{found[1].parent.folder}/artifacts/study/study.html")
        page.wait_for_selector(".plotly-graph-div .main-svg")
        for width in (400, 1300):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_study_that_began_otherwise_is_refused_and_new_begins_beside_it(found, monkeypatch):
    home, _ = found
    monkeypatch.setenv("LABBOOK_HOME", str(home))
    other = SPACE | {"optimizer.lr": Float(0.01, 0.5, log=True)}
    with pytest.raises(UserError, match=r"Float\(0.01, 1, log\) then, Float\(0.01, 0.5, log\) now") as caught:
        search(TINY, other, Search(trials=7), OFFLINE, "tiny")
    assert "--new" in str(caught.value)
    fresh = search(TINY, other, Search(trials=1, new=True), OFFLINE, "tiny")
    assert fresh.study.study_name == "tiny.2"


@pytest.mark.usefixtures("warm")
def test_trials_that_fail_are_recorded_and_five_in_a_row_end_the_study(home):
    space = {"optimizer": Choice(SGD(lr=1e30), SGD(lr=1e29)), "model.widths": Choice((4,), (8,))}
    with pytest.raises(Failing, match="5 consecutive trials failed, the last one with: NonFinite"):
        search(TINY.but({"optimizer.lr": 1e30}), space, Search(trials=20, sampler="random"), OFFLINE, "tiny")
    parent = parent_of(home)
    assert parent.status == "FAILED"
    runs = runs_by_trial(parent)
    assert [run.status for run in runs.values()] == ["FAILED"] * 5
    assert all("NonFinite" in trial.user_attrs["error"] for trial in study_of(home).trials)


def test_every_error_of_a_command_line_is_reported(forge, home):
    status, text = forge.run(PROGRAM, "search", "--goal", "val/acuracy", "--trials", "2")
    assert (status, "did you mean val/accuracy" in text) == (2, True)
    status, text = forge.run("experiments.pictures", "search")
    assert (status, "has no SPACE to search" in text) == (2, True)
    url = "postgresql://nobody:secret@127.0.0.1:9/none"
    status, text = forge.run(PROGRAM, "search", "--goal", "val/accuracy", "--storage", url)
    assert status == 2
    assert "cannot be used" in text
    assert "secret" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(("sharing", "devices"), [(1, "0 1 0 1"), (2, "0 0 1 1")])
def test_workers_are_spread_over_gpus(monkeypatch, sharing, devices):
    """Only how they are counted: no machine of these tests has two."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    options = Search(workers=4, workers_per_gpu=sharing)
    study = StudyRunner(None, None, {}, TINY, Launch(), options, None, None, None, None, None, None)
    assert [study.placed(place).device for place in range(4)] == [f"cuda:{device}" for device in devices.split()]
    elsewhere = StudyRunner(None, None, {}, TINY, Launch(device="cpu"), options, None, None, None, None, None, None)
    assert elsewhere.placed(1).device == "cpu"


def test_a_damaged_study_file_is_reported_in_a_line(tmp_path):
    (tmp_path / "study.log").write_text('garbage\n{"op_code": 0}\n')
    with pytest.raises(UserError, match=r"study\.log, line 1: damaged; .*--study"):
        open_storage(None, tmp_path)


def test_a_password_with_an_at_sign_is_refused_and_not_printed(tmp_path):
    with pytest.raises(UserError, match="%40") as caught:
        open_storage("postgresql://user:se@cret@nohost/studies", tmp_path)
    assert "cret" not in str(caught.value)


def test_no_trial_is_pruned_after_its_last_epoch_and_a_grid_at_its_end_waits_for_nothing():
    storage = optuna.storages.InMemoryStorage()
    plain = optuna.create_study(storage=storage, pruner=optuna.pruners.ThresholdPruner(upper=0.0))
    goals, options = Goals(("val/accuracy",), "best"), Search(sampler="grid")
    given = (OFFLINE, options, goals, RunInfo("tiny"), None, None, None, None)
    study = StudyRunner(storage, plain, SPACE, TINY, *given)  # what it asks of others is not asked here
    trial = plain.ask()
    study.running[trial.number] = trial
    assert [study._continues(trial.number, epochs, 0.1) for epochs in (1, TINY.epochs)] == [False, True]
    assert study.is_active()
    study.running.clear()
    assert study.is_exhausted()
    assert not study.is_active()


def test_without_a_goal_it_is_the_declared_one_where_its_values_compare():
    varying = {"loss.label_smoothing": Float(0.0, 0.2)}
    assert EXPERIMENT.monitor == "val/loss"
    assert goals_of(Search(), EXPERIMENT, {"optimizer.lr": Float(0.1, 0.2)}).names == ("val/loss",)
    assert goals_of(Search(), EXPERIMENT, varying).names == ("val/accuracy",)
    with pytest.raises(UserError, match="--goal val/loss: SPACE varies the loss"):
        goals_of(Search(goal=("val/loss",)), EXPERIMENT, varying)


@pytest.mark.usefixtures("warm")
def test_a_grid_trains_the_declaration_once(home):
    space = {"model.widths": Choice((4,), (32, 64)), "schedule.warmup_epochs": Choice(0.0, 1.0)}
    options = Search(trials=1, sampler="grid", study="grid")
    found = search(TINY.but({"limit": 64, "epochs": 1}), space, options, OFFLINE, "tiny")
    assert len(found.study.get_trials()) == 4  # that of the declaration is one of the four points


@pytest.mark.usefixtures("warm")
def test_latency_is_a_goal_that_is_on_record_of_each_trial(home):
    goals = Search(trials=2, goal=("val/accuracy", "latency_ms"))
    result = search(TINY.but({"epochs": 1}), {"model.widths": Choice((4,), (32,))}, goals, OFFLINE, "tiny")
    for number_of, run in runs_by_trial(result.parent).items():
        accuracy, latency = result.study.trials[number_of].values
        assert latency == run.metrics["latency_ms"] > 0
        assert accuracy == run.metrics["val/accuracy"]


def test_a_pool_is_closed_although_a_worker_died_before_it_was_noticed():
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
    here, _ = multiprocessing.Pipe()
    pool = Pool(1)
    task = Task(0, {}, {}, RunInfo(), Goals(("val/accuracy",), "best"))
    pool.workers[0] = Worker(0, LocalProcess(process, here), here, {0: task})
    pool.close()
    assert not process.is_alive()
