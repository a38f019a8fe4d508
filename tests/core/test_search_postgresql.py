"""A study that several machines share through a real PostgreSQL server, which this test starts and stops."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import optuna
import pytest

from core.search.storage import open_storage

WORDS = ("experiments.digits_cnn", "search", "--goal", "val/accuracy", "--limit", "320", "--epochs", "2",
         "--threads", "1", "--mlflow", "false", "--trials", "8")  # fmt: skip


@pytest.fixture(scope="module")
def server():
    """The URL of a database of a server on a free port of 127.0.0.1."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("NOT TESTED: PostgreSQL is not installed (apt-get install postgresql)")
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="labbook-pg-"))
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program, *words):
        subprocess.run([found[-1] / program, *words], user=user, check=True, capture_output=True, cwd=folder)

    call("initdb", "-D", folder / "data", "-U", "labbook", "--auth", "trust", "--no-sync")
    settings = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    call("pg_ctl", "-D", folder / "data", "-l", folder / "log", "-w", "-o", settings, "start")
    try:
        call("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "labbook", "studies")
        yield f"postgresql://labbook@127.0.0.1:{port}/studies"
    finally:
        call("pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


def test_two_machines_share_one_study(server, forge, tmp_path):
    """Machines have nothing in common but the database: here, two homes."""
    homes = [tmp_path / "one", tmp_path / "two"]
    first = forge.start(*WORDS, "--storage", server, env={"LABBOOK_HOME": str(homes[0])})
    second = forge.start(*WORDS, "--storage", server, env={"LABBOOK_HOME": str(homes[1])})
    for process in (first, second):
        assert process.wait(240) == 0, process.text
    study = optuna.load_study(study_name="digits_cnn", storage=open_storage(server, tmp_path))
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert 8 <= len(states) <= 9, first.text + second.text  # both may begin the last one in the same moment
    assert all(state.is_finished() and state != optuna.trial.TrialState.FAIL for state in states)
    owners = {trial.user_attrs["owner"] for trial in study.get_trials()}
    assert len(owners) == 2, "one machine did it all"
    status, text = forge.run(*WORDS, "--storage", server, env={"LABBOOK_HOME": str(homes[0])})
    assert status == 0, text
    assert len(list((homes[0] / "mlruns" / "runs").glob("*/artifacts/best.json"))) == 1
