"""A store that no waiting mends, a home that was moved or copied, tables of another MLflow, runs deleted there."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from core.cli.sync import main as sync
from core.common.errors import UserError
from core.tracking import cursor, process, store_check
from core.tracking.api import Mirror, mirror_status, store_problem, tracking_uri
from core.tracking.destinations import MLFLOW
from core.tracking.store_check import problem
from tests.support import mlflow_server
from tests.support.mlflow_server import assert_mirrored, begin, mirror_now, run_of

empty_store = mlflow_server.empty_store
cold = mlflow_server.cold
home = mlflow_server.home


@pytest.mark.parametrize(
    ("uri", "advice"),
    [
        ("./mlruns", "a folder cannot hold runs of MLflow; use http://"),
        ("file:///tmp/mlruns", "a folder cannot hold runs of MLflow"),
        ("htp://lab:5000", "htp:// is not supported; use http://"),
        ("lab:5000", "it has no scheme; use http://lab:5000"),
        ("postgres://me:secret@lab/db", "postgres:// is not supported"),
        ("http://", "it has no host"),
        ("http://me:sec/ret@lab", "/ in the password should be written %2F"),
        ("http://lab:x5000", "Port could not be cast"),
    ],
)
def test_a_mistake_in_the_uri_is_told_before_training_and_costs_no_time(uri, advice, home, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr("core.tracking.api._launch", lambda *given, **named: pytest.fail("the mirror was started"))
    log = begin("run")
    mirror = Mirror()
    mirror.follow(log.folder)
    told = capfd.readouterr().out
    assert advice in told
    mirror.follow(log.folder)
    log.close("FINISHED")
    assert not mirror.finish()
    assert capfd.readouterr().out == ""
    assert advice in mirror_status(log.folder).why
    with pytest.raises(UserError) as caught:
        sync([])
    assert advice in str(caught.value)
    assert "sec" not in told + str(caught.value)


@pytest.mark.parametrize("uri", ["http://me:s%2Fx@lab:5000", "https://lab", "sqlite:////none/x.db", "databricks"])
def test_usual_uris_are_fine(uri):
    assert problem(uri, own=False) is None


def written(name: str = "run"):
    """A run in MLflow, with an artifact."""
    log = begin(name)
    log.metrics(0, {"loss": 1.0})
    log.artifact("notes.txt").write_text("notes")
    log.log_artifact("notes.txt")
    log.close("FINISHED")
    assert mirror_now(log) == 0
    return log


def artifact(name: str) -> Path:
    uri = run_of(name).info.artifact_uri
    return Path(uri.removeprefix("file://")) / "notes.txt"


@pytest.mark.parametrize("how", ["moved", pytest.param("copied", marks=pytest.mark.slow)])
def test_a_home_may_be_moved(how, home, tmp_path, monkeypatch, capsys):
    written("before")
    place = tmp_path / "another home"
    old = tmp_path / "old"
    home.mkdir(exist_ok=True)
    old.mkdir()
    for name in ("mlflow.db", "mlruns"):
        shutil.move(home / name, old / name)
    monkeypatch.setenv("LABBOOK_HOME", str(old))
    assert sync([]) == 0
    (shutil.move if how == "moved" else shutil.copytree)(old, place)
    monkeypatch.setenv("LABBOOK_HOME", str(place))
    monkeypatch.chdir(place)
    capsys.readouterr()

    assert f"was moved or copied from {old}" in (store_problem() or "")
    log = begin("between")
    mirror = Mirror()
    mirror.follow(log.folder)
    log.artifact("notes.txt").write_text("notes")
    log.log_artifact("notes.txt")
    log.close("FINISHED")
    assert not mirror.finish()
    assert "labbook sync repairs it" in capsys.readouterr().out
    assert old.exists() == (how == "copied"), "the former place was made again"

    before = sorted(place.glob("mlflow.db.2*"))
    assert sync([]) == 0
    text = capsys.readouterr().out
    assert len(sorted(place.glob("mlflow.db.2*"))) == len(before) + 1
    assert f"places of artifacts in {old} are now in {place}" in text
    assert "2 of 2 runs are complete" in text
    for name in ("before", "between"):
        assert artifact(name).is_relative_to(place)
        assert artifact(name).read_text() == "notes"
    assert store_problem() is None
    if how == "copied":
        monkeypatch.setenv("LABBOOK_HOME", str(old))
        assert artifact("before").is_relative_to(old)
        assert not list(old.glob("mlruns/*/*/artifacts/between*"))


def test_places_elsewhere_stay(home, tmp_path):
    """Artifacts that a user keeps on another disk, under a folder that still has them."""
    other = tmp_path / "disk"
    (other / "mlruns" / "7" / "run" / "artifacts").mkdir(parents=True)
    with closing(sqlite3.connect(home / "mlflow.db")) as opened, opened:
        opened.execute(
            "insert into experiments (name, artifact_location, lifecycle_stage, workspace) "
            "values ('theirs', ?, 'active', 'default')",
            (f"{other}/mlruns/7",),
        )
    assert str(other) not in store_check.earlier_homes(home / "mlflow.db")


def downgraded(database: Path, version: str) -> None:
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute("update alembic_version set version_num = ?", (version,))


def test_an_older_database_is_upgraded_after_a_copy(home, monkeypatch, capsys):
    database = home / "mlflow.db"
    database.unlink()
    upgraded_from(database, "f5a4f2784254")
    assert "was written by an older MLflow" in (store_problem() or "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}?x=1")
    assert f"mlflow db upgrade sqlite:///{database}" in (store_problem() or ""), "a store of somebody else"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    log = begin("run")
    log.close("FINISHED")
    assert sync([]) == 0
    text = capsys.readouterr().out
    assert "was copied to mlflow.db.2" in text
    assert "was upgraded to the tables of the installed MLflow" in text
    (copy,) = home.glob("mlflow.db.2*")
    assert store_check.schema(copy) == "f5a4f2784254"
    assert store_check.revisions()[store_check.schema(database) or ""] is False
    assert_mirrored(log)
    assert sync([]) == 0
    assert "copied" not in capsys.readouterr().out


def upgraded_from(database: Path, version: str) -> None:
    """A database with the tables of this revision."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = create_sqlalchemy_engine(f"sqlite:///{database}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(f"sqlite:///{database}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    engine.dispose()


def test_a_newer_database_is_left_alone(home, capsys):
    downgraded(home / "mlflow.db", "abcdef012345")
    content = (home / "mlflow.db").read_bytes()
    assert "was written by a newer MLflow (schema abcdef012345); install it" in (store_problem() or "")
    begin("run").close("FINISHED")
    with pytest.raises(UserError, match="newer MLflow"):
        sync([])
    assert (home / "mlflow.db").read_bytes() == content


def test_a_failed_upgrade_leaves_the_database_as_it_was(home, monkeypatch):
    database = home / "mlflow.db"
    downgraded(database, "f5a4f2784254")  # its tables exist already

    def fail(command, **named):
        with closing(sqlite3.connect(database)) as opened, opened:
            opened.execute("drop table metrics")
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nno such thing\n")

    monkeypatch.setattr("core.tracking.repair.subprocess.run", fail)
    with pytest.raises(UserError, match=r"could not be upgraded and is as before: no such thing$"):
        sync([])
    with closing(sqlite3.connect(database)) as opened:
        assert opened.execute("select 1 from sqlite_master where name = 'metrics'").fetchone()
    assert store_check.schema(database) == "f5a4f2784254"


def test_a_file_that_is_no_database(home):
    (home / "mlflow.db").write_text("no database " * 100)
    assert "file is not a database; move it away" in (store_problem() or "")


@pytest.mark.slow
def test_a_locked_database_is_no_mistake(home):
    with closing(sqlite3.connect(home / "mlflow.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        assert store_problem() is None


def test_a_run_deleted_in_mlflow_is_told_until_it_is_restored(home, capsys):
    log, other = written("deleted"), written("kept")
    assert sync([]) == 0
    assert "2 of 2 runs are complete in" in capsys.readouterr().out
    client = MlflowClient(tracking_uri())
    run = run_of("deleted").info.run_id
    client.delete_run(run)
    assert sync([]) == 0
    text = capsys.readouterr().out
    assert f"{log.folder.name}: the run was deleted in MLflow; restore it there" in text
    assert "1 of 2 runs are complete in" in text
    assert text.rstrip().endswith("; 1 deleted there")
    found = mirror_status(log.folder)
    assert (found.complete, found.deleted, mirror_status(other.folder).complete) == (False, True, True)
    client.restore_run(run)
    assert sync([]) == 0
    assert "2 of 2 runs are complete in" in capsys.readouterr().out
    assert mirror_status(log.folder).complete
    stored = cursor.load(log.folder)
    assert stored is not None
    assert (stored.problem, stored.deleted) == ("", False)


def test_advice_is_not_cut_and_waiting_in_vain_ends_at_once(home, monkeypatch):
    advice = f"{'x' * 400} to mend it, do this"
    error = ImportError(f"the driver is missing {advice}")
    monkeypatch.setattr("core.tracking.client.connect", lambda uri: (_ for _ in ()).throw(error))
    log = begin("run")
    log.close("FINISHED")
    mirror = process.Mirror(MLFLOW, 0, patience=1e9)
    mirror.take([str(log.folder), ""])
    mirror.send()
    assert mirror.exit_status() == 1
    found = cursor.load(log.folder)
    assert found is not None
    assert found.problem.endswith(advice)
