"""The layers: an import leads to the same room or to a lower layer, wherever in a file it is, and never in a circle.

core/README.md has the same table for people; a test below holds the two together.
"""

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    ["core/common", "core/context.py", "core/randomness.py"],
    ["core/declare"],
    ["core/record", "core/metrics", "core/catalogue.py"],
    ["core/loading", "core/models", "core/optimizers", "core/schedules", "core/tracking", "core/compare",
     "core/cluster", "core/engines", "core/launch.py"],
    ["core/augment", "core/losses", "core/importing", "core/queue"],
    ["core/inference"],
    ["core/report", "core/export", "core/methods", "data"],
    ["core/experiment.py"],
    ["core/training"],
    ["core/diagnostics"],
    ["core/runs"],
    ["core/search", "core/options.py", "data/check", "data/predict"],
    ["core/figures", "data/pack"],
    ["core/cli"],
    ["experiments", "core/__init__.py", "core/__main__.py", "core/task.py"],
]  # fmt: skip
LAYER = {room: number for number, rooms in enumerate(LAYERS, 1) for room in rooms}
ONLY_IN = {
    "mlflow": "core/tracking",
    "wandb": "core/tracking",
    "trackio": "core/tracking",
    "optuna": "core/search",
    "albumentations": "core/augment",
    "distributed": "core/engines",
}
SOURCES = {
    path.relative_to(ROOT).as_posix(): path
    for tree in ("core", "data", "experiments")
    for path in sorted((ROOT / tree).rglob("*.py"))
}


def room(name: str) -> str:
    """The longest entry of the table that holds this file."""
    found = [each for each in LAYER if name == each or name.startswith(f"{each}/")]
    assert found, f"{name} is in no room of the table: put it into one, or give its room a layer"
    return max(found, key=len)


def module_file(module: str) -> str | None:
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in SOURCES), None)


@cache
def imports(name: str) -> tuple[tuple[str, int], ...]:
    """(full dotted name, line) of everything that a file imports, in functions and under TYPE_CHECKING too."""
    found = []
    for node in ast.walk(ast.parse(SOURCES[name].read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return tuple(found)


def reached(name: str) -> dict[str, int]:
    """File of this repository -> the line that imports it."""
    found: dict[str, int] = {}
    for imported, line in imports(name):
        target = module_file(imported) or module_file(imported.rpartition(".")[0])
        if target and target != name:
            found.setdefault(target, line)
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_imports_lead_down(name):
    for target, line in reached(name).items():
        here, there = room(name), room(target)
        assert here == there or LAYER[there] < LAYER[here], f"{name}:{line}: {here} does not lie above {there}"
        assert not (name.startswith("core/") and not target.startswith("core/")), f"{name}:{line} imports {target}"


@pytest.mark.parametrize("name", SOURCES)
def test_each_large_library_has_one_room(name):
    for imported, line in imports(name):
        package = imported.split(".")[0]
        assert package not in ONLY_IN or room(name) == ONLY_IN[package], f"{name}:{line} imports {package}"


def test_an_experiment_never_imports_another():
    for name in SOURCES:
        owner = re.match(r"experiments/(\w+)/", name)
        for target, line in reached(name).items() if owner else ():
            allowed = (f"experiments/{owner[1]}/", "experiments/recipes.py", "experiments/__init__.py")
            assert not target.startswith("experiments/") or target.startswith(allowed), f"{name}:{line}: {target}"


def test_there_is_no_circle():
    graph = {name: list(reached(name)) for name in SOURCES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_map_tells_the_same_layers():
    listed = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "core" / "README.md").read_text(), re.MULTILINE)
    rooms = {int(number): set(re.findall(r"`([\w./]+)`", cell)) for number, cell in listed}
    assert rooms == {number: set(names) for number, names in enumerate(LAYERS, 1)}
