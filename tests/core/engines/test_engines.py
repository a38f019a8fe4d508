"""Engines: the same results in the same order, also when workers die."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.common.errors import UserError
from core.engines.opening import NAMES, opened
from tests.support import tasks
from tests.support.optional import library

ROOT = Path(__file__).parents[3]
slow = pytest.mark.slow  # a cluster takes seconds to start
ENGINES = [pytest.param("local"), pytest.param("dask", marks=slow), pytest.param("ray", marks=slow)]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers of Ray import the tests, too."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")


def needed(name):
    if name != "local":
        library({"dask": "distributed"}.get(name, name), extra=name)


@pytest.mark.parametrize("name", ENGINES)
def test_results_come_in_order_and_a_task_whose_worker_dies_is_run_again(name, tmp_path, capsys):
    needed(name)
    with opened(name, 2) as engine:
        assert list(engine.map(tasks.squared, iter(range(20)))) == [n * n for n in range(20)]
        assert list(engine.map(tasks.squared, [])) == []
        with pytest.raises(ValueError, match="7 is refused"):
            list(engine.map(tasks.refused, [7]))
        assert list(engine.map(tasks.dies_once, [(n, tmp_path) for n in range(8)])) == list(range(8))
    if name != "ray":  # which says it of nodes
        assert "died; its tasks are run again" in (said := capsys.readouterr().err) or "was lost; its tasks" in said


@pytest.mark.parametrize("name", ENGINES)
def test_a_task_that_kills_its_workers_ends_with_one_message(name):
    needed(name)
    with opened(name, 1) as engine, pytest.raises(UserError, match=r"died.*(at 5|at the same task)") as caught:
        list(engine.map(tasks.dies, [5]))
    assert "memory" in " ".join(caught.value.lines)


def test_tasks_are_taken_only_as_workers_become_free():
    taken = []

    def numbers():
        for number in range(100):
            taken.append(number)
            yield number

    with opened("local", 1) as engine:
        results = engine.map(tasks.squared, numbers())
        assert next(results) == 0
        assert len(taken) <= 4


def test_without_workers_tasks_run_here():
    with opened("local", 0) as engine:
        assert list(engine.map(lambda number: (number, os.getpid()), [1])) == [(1, os.getpid())]


PARENT = """
import sys
from pathlib import Path
from core.engines.opening import opened
from tests.support.tasks import slowly
if __name__ == "__main__":
    with opened("local", 1) as engine:
        list(engine.map(slowly, [(0, Path(sys.argv[1]), 60)]))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "marks").mkdir()
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path / "marks"], cwd=ROOT)
    until = time.monotonic() + 120
    while not (marks := list((tmp_path / "marks").iterdir())) and time.monotonic() < until:
        time.sleep(0.05)
    worker = int(marks[0].suffix[1:])
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while time.monotonic() < until and _runs(worker):
        time.sleep(0.05)
    assert not _runs(worker)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("name", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_a_missing_library_is_one_line_with_its_extra(name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as caught, opened(name, 1):
        pass
    assert caught.value.lines == [
        f"--engine {name} requires the library {module}, which is not installed; "
        f'install it with pip install -e ".[{name}]"'
    ]


def test_wrong_options_are_one_line():
    with pytest.raises(UserError, match="the local engine has none"), opened("local", 1, "tcp://127.0.0.1:1"):
        pass
    with pytest.raises(UserError, match="should be at least 1 with --engine dask"), opened("dask", 0):
        pass
    assert NAMES == ("local", "dask", "ray")


@slow
@pytest.mark.parametrize("name", ["dask", "ray"])
def test_no_cluster_at_an_address_is_one_message(name):
    needed(name)
    with opened(name, None, "127.0.0.1:9") as engine, pytest.raises(UserError, match=r"--scheduler 127\.0\.0\.1:9"):
        list(engine.map(tasks.squared, [1]))


@slow
def test_a_scheduler_of_dask_without_workers_is_one_message(monkeypatch):
    distributed = library("distributed", extra="dask")
    from core.engines import dask_engine

    monkeypatch.setattr(dask_engine, "PATIENCE", 1.0)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as cluster,
        opened("dask", None, cluster.scheduler_address) as engine,
        pytest.raises(UserError, match="has no workers"),
    ):
        list(engine.map(tasks.squared, [1]))


@slow
def test_a_node_of_ray_that_dies_is_said_and_its_tasks_run_on_another(tmp_path, capsys):
    ray = library("ray", extra="ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)
        with opened("ray", None, cluster.address) as engine:
            assert engine.workers == 0  # not known before the first task
            results = engine.map(tasks.slowly, [(number, tmp_path, 1.0) for number in range(12)])
            assert next(results) == 0
            assert engine.workers == 2
            cluster.remove_node(node, allow_graceful=False)
            assert list(results) == list(range(1, 12))
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert "was lost; its tasks are run again by others" in capsys.readouterr().err
