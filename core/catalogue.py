"""Experiments and data sets by name. The one place where core looks for what is above it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from core.common.errors import UserError
from core.common.text import suggestion


@dataclass(frozen=True)
class Entry:
    """One experiment, in the words of its docstring."""

    name: str
    question: str
    expected: str

    @property
    def command(self) -> str:
        return f"python -m experiments.{self.name}"


def experiments() -> list[str]:
    """The name of every experiment. None is imported."""
    package = importlib.import_module("experiments")
    return sorted(found.name for found in pkgutil.iter_modules(package.__path__) if found.ispkg)


def package_of(name: str) -> str:
    """The package of an experiment, which is not imported. Raises UserError for a name that no experiment has."""
    known = experiments()
    if name not in known:
        raise UserError([f"{name}: unknown experiment{suggestion(name, known)}"])
    return f"experiments.{name}"


def entries() -> Iterator[Entry]:
    """Every experiment, by name."""
    for name in experiments():
        try:
            text = importlib.import_module(f"experiments.{name}").__doc__ or ""
        except Exception as error:  # one experiment that is being written must not hide the others
            text = f"cannot be read: {type(error).__name__}: {str(error).splitlines()[0]}"
        expected = re.search(r"^Expected: (.*?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
        yield Entry(name, text.strip().split("\n")[0], " ".join(expected[1].split()) if expected else "")


def import_data(module: str = "data") -> ModuleType:
    """The package of the data sets, so that each of them can be named, or a module of it."""
    importlib.import_module("data")
    return importlib.import_module(module)


def import_experiment(name: str) -> None:
    """Make the parts of the data sets and of experiments.<name> known. A name from elsewhere imports nothing."""
    import_data()
    if name in experiments():
        importlib.import_module(f"experiments.{name}")


def import_parts(record: Mapping[str, Any]) -> None:
    """Make the parts known that a record may name."""
    for name in experiments_of(record):
        import_experiment(name)


def experiments_of(record: Mapping[str, Any]) -> list[str]:
    """The experiments whose parts a record may name: its own and, if it is made of other runs, theirs."""
    below = [name for member in record.get("combined", ()) for name in member["experiments"]]
    return sorted({record["experiment"], *below})
