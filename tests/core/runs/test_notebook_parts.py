"""A part that a notebook or script defines: what the user is told when it is trained, and when its run is loaded."""

import os
import subprocess
import sys

import pytest

from core.common.errors import UserError
from core.runs.trained import load
from tests.support.runs import only_run
from tests.support.samples import ROOT

SCRIPT = """
from core import Launch, train
from core.losses import CrossEntropy
from experiments.tiny import EXPERIMENT

class Mine(CrossEntropy):
    '''A loss of the script.'''

if __name__ == "__main__":
    train(EXPERIMENT.but({"epochs": 1, "limit": 200, "loss": Mine()}), Launch(mlflow=False))
"""


def test_a_part_of_a_script_is_announced_and_its_absence_explained(home, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Mine: defined in a notebook or script" in done.stdout
    with pytest.raises(UserError, match="loss: Mine was defined in a notebook or script; define it in this process"):
        _ = load(only_run(home).id).model
