"""labbook clean: what it lists, what it removes, and what it keeps."""

import os
import time

import pytest

from core.cli.clean import main
from core.common.errors import UserError
from core.launch import Launch
from core.record import journal, lock
from core.runs.train import train
from experiments.tiny import EXPERIMENT

QUIET = Launch(mlflow=False, threads=1)


def test_checkpoints_of_finished_runs_are_listed_and_removed_and_no_others(home, capsys):
    finished = train(EXPERIMENT.but({"epochs": 1, "limit": 64}), QUIET)
    kept = {path.relative_to(finished.folder) for path in finished.folder.rglob("*") if path.suffix != ".checkpoint"}
    other = finished.folder.with_name("other-20260101-000000-0000")
    (other / "checkpoints").mkdir(parents=True)
    (other / journal.FILE).write_text("")
    (other / "checkpoints/000000000001.checkpoint").write_bytes(b"of a run that was interrupted")
    capsys.readouterr()

    assert main([]) == 0
    name = finished.id.rsplit("-", 3)[0]
    said = capsys.readouterr().out
    assert f"MB  {name}: checkpoints of 1 finished run\n" in said
    assert "labbook clean --yes removes them" in said
    assert list((finished.folder / "checkpoints").iterdir())

    assert main(["--yes", "--older", "1"]) == 0
    with lock.locked(finished.folder):
        assert main(["--yes"]) == 0
    assert list((finished.folder / "checkpoints").iterdir())

    long_ago = time.time() - 2 * 24 * 3600
    os.utime(finished.folder / journal.FILE, (long_ago, long_ago))
    assert main([name, "--yes", "--older", "1"]) == 0
    assert "in all: removed" in capsys.readouterr().out
    assert {path.relative_to(finished.folder) for path in finished.folder.rglob("*")} == kept - {
        (finished.folder / "checkpoints").relative_to(finished.folder)
    }
    assert list((other / "checkpoints").iterdir())
    with pytest.raises(UserError, match="no finished run of tinny has checkpoints"):
        main(["tinny"])


def test_linked_runs_are_left_and_what_cannot_be_removed_is_named(home, tmp_path, capsys, monkeypatch):
    run = train(EXPERIMENT.but({"epochs": 1, "limit": 64}), QUIET)
    elsewhere = tmp_path / "elsewhere"
    run.folder.rename(elsewhere)
    run.folder.symlink_to(elsewhere)
    assert main(["--yes"]) == 0
    assert list((elsewhere / "checkpoints").iterdir())
    run.folder.unlink()
    elsewhere.rename(run.folder)

    def refuse(folder):
        raise PermissionError(1, "Operation not permitted", str(folder))

    monkeypatch.setattr("shutil.rmtree", refuse)
    capsys.readouterr()
    assert main(["--yes"]) == 1
    assert f"{run.folder / 'checkpoints'}: Operation not permitted; left as it is" in capsys.readouterr().out
    with pytest.raises(UserError, match="--older: the number of days must not be negative"):
        main(["--older", "nan"])
