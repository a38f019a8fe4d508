"""Mistakes in the files of an experiment are one line each, with file and line."""

import os
import subprocess
import sys

import pytest

import experiments
from core.cli.find_experiment import imported
from core.common.errors import UserError
from tests.support.samples import ROOT

HEAD = "from experiments.tiny import EXPERIMENT\n"
MISTAKES = {
    "own_class": (
        "x = Huberized()",
        "NameError: name 'Huberized' is not defined; add: from experiments.bad_own_class.loss import",
    ),
    "part": ("x = FocalLoss()", "NameError: name 'FocalLoss' is not defined; add: from core.losses import FocalLoss"),
    "syntax": ("x = (", "SyntaxError: '(' was never closed"),
    "module": ("import nothing_there", "ModuleNotFoundError: No module named 'nothing_there'"),
    "attribute": ("EXPERIMENT.nothing", "AttributeError: "),
    "field": ('EXPERIMENT.but({"loss.gama": 1})', "loss.gama: unknown field"),
    "value": ("EXPERIMENT.model.__class__(widths=(-1,))", "widths"),
}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Write an experiment with this second line; the name of its package."""
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])

    def write(name, line):
        folder = tmp_path / f"bad_{name}"
        folder.mkdir()
        (folder / "__init__.py").write_text(f"{HEAD}{line}\n")
        (folder / "__main__.py").write_text("from core.cli.main import experiment\n\nexperiment(__package__)\n")
        (folder / "loss.py").write_text("class Huberized:\n    pass\n")
        return f"experiments.{folder.name}"

    return write


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_file_and_line(name, written):
    line, text = MISTAKES[name]
    package = written(name, line)
    with pytest.raises(UserError) as found:
        imported(package)
    assert f"bad_{name}/__init__.py, line 2: " in str(found.value)
    assert text in str(found.value)


def test_an_error_inside_of_a_library_keeps_its_traceback(written):
    package = written("library", "import json; json.loads('{')")
    with pytest.raises(ValueError, match="Expecting property name"):
        imported(package)


def test_what_python_imports_by_itself_is_explained_too(written, tmp_path, monkeypatch):
    monkeypatch.setenv("LABBOOK_EXPERIMENTS", str(tmp_path), prepend=":")
    package = written("start", "x = FocalLoss()")
    done = subprocess.run([sys.executable, "-m", package], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert (
        "bad_start/__init__.py, line 2: NameError: name 'FocalLoss' is not defined; add: from core.losses"
        in done.stderr
    )


@pytest.mark.parametrize("name", ["data.py", "core/__init__.py"])
def test_a_module_of_the_folder_that_hides_one_of_labbook_is_named(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    command = [sys.executable, "-m", "experiments.tiny", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{tmp_path / name} hides the package {name.partition('.')[0].partition('/')[0]} of labbook" in done.stderr
    assert "Traceback" not in done.stderr
