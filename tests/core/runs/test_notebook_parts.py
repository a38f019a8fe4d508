"""A part that a notebook or script defines: what the user is told when it is trained, and when its run is loaded."""

import importlib
import os
import subprocess
import sys

import pytest

from core.common.errors import UserError
from core.record.sources import main_source
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


def test_a_part_of_a_script_is_announced_its_absence_explained_and_its_source_kept(home, tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Mine: defined in a notebook or script; their source is code/main.py in the record" in done.stdout
    run = load(only_run(home).id)
    with pytest.raises(UserError, match="loss: Mine was defined in a notebook or script; define it in this process"):
        _ = run.model
    (tmp_path / "mine.py").write_text(run.artifact("code/main.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("mine")
    assert load(run.id).model is not None


@pytest.mark.parametrize(
    ("secret", "reason"), [("", ""), ("password = 'xK9$mQ2vLp8#'", "looks like it holds a secret")]
)
def test_the_cells_of_a_notebook_are_its_source_unless_one_holds_a_secret(secret, reason, monkeypatch):
    monkeypatch.setattr(
        sys.modules["__main__"], "In", ["", "import torch", f"{secret}\nclass Mine: pass"], raising=False
    )
    content, why = main_source()
    assert (content == b"") == bool(secret)
    assert secret or content == b"import torch\n\n\nclass Mine: pass"
    assert bool(why) == bool(reason)
