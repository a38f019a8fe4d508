"""Every reading of a test split is counted, and compare says how many there were."""

import pytest

from core.cli.compare import main as compare
from core.cli.evaluate import main as evaluate
from core.cli.ledger import main as ledger
from core.common import paths
from core.common.errors import UserError
from core.launch import Launch
from core.record.ledger import note_reading, readings
from core.runs.train import train
from experiments.tiny import EXPERIMENT


def test_runs_and_evaluations_are_counted_by_data_set(home, capsys):
    quiet = Launch(mlflow=False, threads=1)
    runs = [train(EXPERIMENT.but({"limit": 64, "epochs": 1, "seed": seed}), quiet, "tiny") for seed in (0, 1)]
    evaluate([runs[0].id])
    evaluate([runs[0].id, "--split", "val"])
    (found,) = readings().values()
    assert (found.digest, dict(found.counts)) == (runs[0].record["data"]["digest"], {"run": 2, "evaluate": 1})
    capsys.readouterr()
    ledger([])
    assert "evaluate 1, run 2" in capsys.readouterr().out
    compare(["tiny", "--metric", "test/accuracy"])
    assert "the test split of digits has been read 3 times" in capsys.readouterr().out
    compare(["tiny"])
    assert "has been read" not in capsys.readouterr().out


def test_a_ledger_that_cannot_be_written_is_told_and_ends_nothing(home, capsys):
    paths.ledger().mkdir(parents=True)
    note_reading("d1", "digits", "run", "r1")
    assert "Is a directory; this reading of the test split is not in the ledger" in capsys.readouterr().out
    with pytest.raises(UserError, match="Is a directory"):
        readings()


def test_a_torn_line_loses_no_other_and_is_named(home, capsys):
    note_reading("d1", "digits", "run", "r1")
    with open(paths.ledger(), "ab") as file:
        file.write(b'\n{"at": "2026')
    note_reading("d1", "digits", "run", "r2")
    assert readings()["d1"].total == 2
    assert capsys.readouterr().err == f"warning: {paths.ledger()}, line 3 is damaged and is left out\n"
