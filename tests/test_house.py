"""The house's own rules: how long things are, that they are explained, and that what they say is true."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from core.cli.figures import pages
from core.experiment import Experiment
from core.figures.markers import FIGURE, markers
from core.launch import Launch
from core.runs.train import train
from core.search.space import check
from tests.support.documentation import accept
from tests.support.shipped import SHIPPED

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("core", "data", "experiments") for path in (ROOT / room).rglob("*.py"))
README = (ROOT / "README.md").read_text()


TESTS = sorted((ROOT / "tests").rglob("*.py"))
# records written by the repository's experiments of the time; pages that show them
EXCEPTED = ("tests/core/runs/test_old_homes.py", "tests/support/documentation.py")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_and_functions_fit(path):
    text = path.read_text()
    assert text.count("\n") <= (200 if name_of(path) == "core/training/loop.py" else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 75, f"{name_of(path)}: {node.name} does not fit a screen"


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name != "__main__.py"], ids=name_of)
def test_what_is_public_is_explained(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name_of(path)}: {node.name} has no docstring"


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_docstrings_ask_a_question_and_their_commands_are_accepted(entry):
    module = importlib.import_module(f"experiments.{entry.name}")
    assert isinstance(module.EXPERIMENT, Experiment)
    assert entry.question.endswith("?")
    assert re.search(r"%|not yet measured", entry.expected), "Expected: states a figure, or that there is none yet"
    commands = re.findall(rf"^    python -m experiments\.{entry.name}(.*?)(?:  .*)?$", module.__doc__, re.MULTILINE)
    assert commands
    for words in commands:
        accept(module, words)


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_a_declared_space_fits_its_experiment(entry):
    module = importlib.import_module(f"experiments.{entry.name}")
    if space := getattr(module, "SPACE", None):
        check(space, module.EXPERIMENT)


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_variants_change_something(entry):
    module = importlib.import_module(f"experiments.{entry.name}")
    for name, changes in module.VARIANTS.items():
        assert module.EXPERIMENT.but(changes) != module.EXPERIMENT, name


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_the_readme_has_a_row_for_it_that_says_what_the_docstring_expects(entry):
    row = next(line for line in README.splitlines() if line.startswith(f"| [{entry.name}]"))
    listed, expected = (set(re.findall(r"\d+\.\d+ %", text)) for text in (row, entry.expected))
    assert listed == expected, f"README tells {listed}, the docstring {expected}"
    assert (ROOT / "experiments" / entry.name / "README.md").exists()


def test_the_readme_names_files_and_options_that_exist():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    known = {entry.name for entry in SHIPPED} | {"my_idea"}
    assert set(re.findall(r"python -m experiments\.(\w+)", README)) <= known


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_markers_of_figures_name_what_exists(path):
    """An experiment, a variant, options and a metric; raises where one does not."""
    for marker in markers(path):
        assert not marker.picture or (path.parent / marker.text).is_file(), f"{marker.place}: {marker.text}"


def test_accuracies_of_seeds_in_the_readmes_table_come_from_the_record():
    rows = [line for line in README.splitlines() if line.startswith("| [")]
    by_hand = {"cifar_distill": 1}  # its teacher is a run, which has another id elsewhere
    for row in rows:
        name = re.match(r"\| \[(\w+)\]", row)[1]
        assert len(re.findall(r"\+- \d", FIGURE.sub("", row))) == by_hand.get(name, 0), row


def test_dependencies_stand_once():
    text = (ROOT / "environment.yml").read_text()
    assert "-e .[dev]" in text
    assert "torch" not in text


def test_nothing_large_and_no_data_are_tracked():
    done = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, done.stdout.split("\0")):
        path = ROOT / name
        assert not path.is_file() or path.stat().st_size < 500_000, name
        assert not name.endswith((".db", ".safetensors", ".pt", ".npy")), name


def test_the_public_names_are_what_they_say():
    code = (
        "from core import Experiment, Launch, Run, load, train, train_seeds; "
        "print(all((Run.model, Run.predict, load.__self__ is Run, train, train_seeds, Experiment.but, Launch.but)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["True"]


def test_the_package_core_alone_imports_no_torch():
    code = (
        "import sys, core, core.tracking.api, core.cli.compare; print('torch' in sys.modules, 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "False"]


def test_the_readme_is_short():
    assert len(README.split()) <= 900, "what is longer belongs into docs/"


def test_the_readmes_commands_are_accepted():
    """Everything in a code block that starts an experiment parses as the command line would."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    commands = re.findall(r"python -m experiments\.(\w+) *([^#\n&]*)", blocks)
    assert len(commands) > 4
    for name, words in commands:
        accept(importlib.import_module(f"experiments.{name}"), words)


def test_the_readmes_own_experiment_works():
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    module = ModuleType("experiments.my_idea")
    exec(block, vars(module))
    assert re.findall(r"python -m experiments\.my_idea (.*)", module.__doc__) == ["--variant smooth"]
    accept(module, "--variant smooth --loss FocalLoss")
    smoothed = module.EXPERIMENT.but(module.VARIANTS["smooth"])
    assert train(smoothed, Launch(mlflow=False, smoke=True)).status == "FINISHED"


@pytest.mark.parametrize("page", ["core/README.md", "CONTRIBUTING.md"])
def test_the_map_names_files_that_exist(page):
    """Every path in code type, and in commands that are shown; `NAME` and `VERB` are the reader's own."""
    named = re.findall(r"[` ]((?:core|data|experiments|tests|docs)/[\w./-]*\w/?)", (ROOT / page).read_text())
    missing = [path for path in named if not re.search("NAME|VERB", path) and not (ROOT / path).exists()]
    assert len(named) > 40
    assert not missing


def imported(path: Path) -> set[str]:
    """The full dotted name of everything that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_test_imports_another():
    for path in TESTS:
        for name in imported(path):
            assert not re.search(r"^tests\b.*\.(test_|conftest)", name), f"{name_of(path)} imports {name}"


def test_tests_of_core_and_data_declare_their_own_experiments():
    names = "|".join(entry.name for entry in SHIPPED)
    for path in (path for path in TESTS if name_of(path).startswith(("tests/core/", "tests/data/"))):
        found = re.findall(rf"\bexperiments(?:\.| import )(?:{names})\b", path.read_text())
        assert not found or name_of(path) in EXCEPTED, f"{name_of(path)}: {found}: use experiments.tiny"


def test_each_file_of_support_is_explained():
    listed = re.findall(r"^\| `([\w./]+)` \| \S", (ROOT / "tests/support/README.md").read_text(), re.MULTILINE)
    files = {path.name for path in (ROOT / "tests" / "support").glob("[!_]*.py")}
    assert not files - set(listed), "add a row that says what it is for"
