"""Ray: jobs and searches on a cluster of several nodes in this machine, one of which loses its power."""

import os
import re
import signal
import sys

import psutil
import pytest

from core.cli.launch import main as launched
from core.cli.launch import parse
from core.cluster.job import Launcher
from core.cluster.ray_cluster import connected
from core.cluster.ray_job import needs
from core.common import paths
from core.common.errors import UserError
from core.record.run import PRUNED
from core.runs.trained import Run
from core.search import Float
from core.search.options import Search
from core.search.search import search
from experiments.tiny import EXPERIMENT
from tests.support import ray_nodes
from tests.support.processes import COMMON, free_port, start, wait_for_step
from tests.support.runs import digest, only_run
from tests.support.studies import parent_of, trials_of, wait_for

TRAIN = ("--epochs", "20", "--batch_size", "8", "--limit", "320", "--model.norm", "group", "--checkpoint_every", "20",
         *COMMON)  # fmt: skip
SEARCH = ("search", "--cluster", "ray", "--trials", "6", "--pruner", "none", "--goal", "val/accuracy",
          "--epochs", "40", "--limit", "320", "--checkpoint_every", "20", *COMMON)  # fmt: skip


def until(true, process, seconds=240):
    wait_for(true, process, seconds)


# without Ray


def test_without_ray_the_way_to_it_is_reported(monkeypatch, home):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="library ray, which is not installed") as mistakes:
        parse(["--cluster", "ray", "--nodes", "2", "--partition", "gpu", "tiny", "--epochs", "x"])
    lines = mistakes.value.lines
    assert [re.split(":| req", line)[0] for line in lines] == ["--partition", "--cluster ray", "--epochs"]
    with pytest.raises(UserError, match=re.escape('install it with pip install -e ".[ray]"')), connected(None):
        pytest.fail("it is connected")
    assert not paths.launches().exists()


def test_the_options_of_ray_belong_to_it():
    with pytest.raises(UserError, match=r"--address: this option requires --cluster ray"):
        parse(["--address", "host:6379", "tiny"])
    with pytest.raises(UserError, match="--address host:6379: this option requires --cluster ray"):
        search(EXPERIMENT, {"optimizer.lr": Float(0.1, 1.0)}, Search(address="host:6379"))
    assert needs(Launcher(cluster="ray", gpus_per_node=4, cpus_per_task=8, mem_gb=1)) == {
        "CPU": 32.0, "GPU": 4.0, "memory": 2.0**30,
    }  # fmt: skip


# with Ray


@pytest.fixture(scope="module")
def nodes():
    with ray_nodes.started(2) as nodes:
        yield nodes


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    for name, value in ray_nodes.VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
def test_what_the_cluster_cannot_do_is_said_at_once(nodes, monkeypatch, home):
    ray = pytest.importorskip("ray")
    asked = ["--cluster", "ray", "--address", nodes.address]
    with pytest.raises(UserError, match=r"2 nodes of the job need 1 CPUs, 1 GPUs each; the cluster has room for 0"):
        launched([*asked, "--nodes", "2", "--gpus_per_node", "1", "tiny"])
    with pytest.raises(UserError, match=r"the cluster has room for 2 \(.*2 CPUs, 0 GPUs"):
        launched([*asked, "--nodes", "3", "--cpus_per_task", "2", "tiny"])
    with pytest.raises(UserError, match=r"--address 127\.0\.0\.1:\d+: no Ray cluster answers"):
        launched(["--cluster", "ray", "--address", f"127.0.0.1:{free_port()}", "tiny"])
    assert not paths.launches().exists()
    monkeypatch.setattr(ray, "__version__", "2.0.1")
    with pytest.raises(UserError, match=r"the cluster runs Ray \S+ and Python \S+, this process Ray 2\.0\.1 and"):
        launched([*asked, "tiny"])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_survives_the_death_of_a_node(nodes, forge, home):
    words = ("experiments.tiny", *SEARCH, "--address", nodes.address, "--workers")
    status, text = forge.run(*words, "9")
    assert status == 2, text
    assert "9 workers need 1 CPUs each; the cluster has room for 4" in text

    process = forge.start(*words, "2")
    until(lambda: sum(bool(trial.intermediate_values) for trial in trials_of(home)) >= 2, process)
    assert nodes.trains(0)
    assert nodes.trains(1)
    nodes.kill(0)
    assert process.wait(600) == 0, process.text
    print(process.text)
    assert "its worker exited (its node was lost); another worker resumes the trial" in process.text
    trials = trials_of(home)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    runs = list(parent_of(home).children())
    assert sorted(run.record["trial"] for run in runs) == list(range(6))
    assert {run.status for run in runs} == {"FINISHED"}
    assert not [run for run in runs if PRUNED in run.tags]

    nodes.add()  # in place of the one that was lost


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_resumes_when_a_node_dies(nodes, forge, home, tmp_path):
    alone = start(forge, "experiments.tiny", *TRAIN, LABBOOK_HOME=tmp_path / "alone")
    assert [rank.wait(300) for rank in alone] == [0, 0], alone[0].text
    job = ("launch", "--cluster", "ray", "--address", nodes.address, "--nodes", "2", "--wait", "--save_seconds", "60")
    process = forge.start("core", *job, "tiny", *TRAIN)
    until(lambda: (home / "mlruns" / "runs").exists(), process)
    wait_for_step(home, 100, seconds=240)
    assert nodes.trains(-1)
    assert nodes.trains(-2)
    nodes.kill(-1)
    assert process.wait(600) == 0, process.text
    print(process.text)
    assert "all ranks start again and resume from the last checkpoint" in process.text
    assert re.search(r"resumes after step [1-9]", process.text)
    run = only_run(home)
    assert run.status == "FINISHED"
    assert digest(run) == digest(only_run(tmp_path / "alone"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_canceled_job_saves_on_its_nodes(nodes, forge, home):
    job = ("launch", "--cluster", "ray", "--address", nodes.address, "--tasks_per_node", "2", "--save_seconds", "60")
    status, text = forge.run("core", *job, "tiny", *TRAIN)
    assert status == 0, text
    number = int(re.search(r"job (\d+) on ray: python -m experiments\.tiny --epochs 20.*, 2 tasks", text)[1])
    wait_for_step(home, 100, seconds=240)
    controller = psutil.Process(number)
    os.kill(number, signal.SIGTERM)
    controller.wait(120)
    run: Run = only_run(home)
    assert run.status == "KILLED"
    (log,) = (home / "mlruns" / "launches").glob("*/rank_0.out")
    assert f"SIGTERM: {run.id} stopped and saved" in log.read_text()
    resumed = forge.start("core", *job, "--wait", "tiny", "resume", run.id)
    assert resumed.wait(400) == 0, resumed.text
    assert only_run(home).status == "FINISHED"
