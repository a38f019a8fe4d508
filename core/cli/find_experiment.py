"""Find the experiment that a command line names, parse its options, and show its help."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from core.catalogue import experiments, import_data, package_of
from core.cli.exits import guarded
from core.common.errors import DataError, UserError
from core.common.text import suggestion
from core.declare.part import Part
from core.declare.tree import choices, dotted, message
from core.experiment import Experiment
from core.loading.images import Dataset
from core.options import Options, parse
from core.runs.recorder import RunInfo


@dataclass(frozen=True)
class NamedExperiment:
    """The module of an experiment, with its declaration and its variants."""

    module: ModuleType

    @property
    def name(self) -> str:
        return self.module.__name__.rsplit(".", 1)[-1]

    @property
    def command(self) -> str:
        return f"python -m {self.module.__name__}"

    @property
    def experiment(self) -> Experiment:
        declared: Experiment = self.module.EXPERIMENT
        return declared

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        return getattr(self.module, "VARIANTS", {})

    def parse(self, words: Sequence[str], verb: Part | None = None) -> Options:
        """Parse the options of a command line. verb: its fields are options, too. Raises UserError with every error."""
        return parse(words, self.experiment, self.variants, verb)

    def info(self, options: Options) -> RunInfo:
        """Returns the names of a run with these options."""
        description = (self.module.__doc__ or "").strip()
        names = self.name, options.variant, options.title, description
        return RunInfo(*names, name=options.name, tags=options.tags)


def find_experiment(verb: str, words: Sequence[str]) -> tuple[NamedExperiment, list[str]]:
    """Returns (the experiment that the first word names, with or without its package, the other words).

    Raises UserError if the experiment is missing or unknown.
    """
    import_data()
    known = experiments()
    if not words or words[0].startswith("-"):
        raise UserError([f"EXPERIMENT is missing{suggestion('', known)}; usage: labbook {verb} EXPERIMENT"])
    name, *rest = words
    return NamedExperiment(imported(name if "." in name else package_of(name))), rest


def imported(package: str) -> ModuleType:
    """Import an experiment. Raises UserError for errors in its declaration, with file and line. Returns the module."""
    try:
        return importlib.import_module(package)
    except Exception as error:
        if lines := import_errors(error):
            raise UserError(lines) from None
        raise


def import_errors(error: BaseException) -> list[str]:
    """Describe an error that the files of an experiment raised when they were imported, with file and line. Returns an
    empty list for any other error, of which a traceback says more."""
    if isinstance(error, SyntaxError):
        return [f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"]
    folders = [Path(folder).resolve() for folder in importlib.import_module("experiments").__path__]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen importlib")]
    own = [f for f in frames if any(folder in Path(f.filename).resolve().parents[1:] for folder in folders)]
    if not own:
        return []
    place = f"{own[-1].filename}, line {own[-1].lineno}: "
    if isinstance(error, ValidationError):
        return [f"{place}{dotted(e['loc'])}: {message(e)}" for e in error.errors()]
    if isinstance(error, UserError):
        return [f"{place}{line}" for line in error.lines]
    if own[-1] != frames[-1] and f"{os.sep}pydantic{os.sep}" not in frames[-1].filename:
        return []
    hint = _where_to_import(str(error.name), Path(own[-1].filename)) if isinstance(error, NameError) else ""
    return [f"{place}{type(error).__name__}: {error}{hint}"]


def _where_to_import(name: str, file: Path) -> str:
    """The import that a file lacks for a class of its folder, or for a part."""
    for path in sorted(file.parent.glob("*.py")):
        if path != file and re.search(rf"^class {re.escape(name)}\b", path.read_text(errors="replace"), re.MULTILINE):
            return f"; add: from experiments.{file.parent.name}.{path.stem} import {name}"
    kind = choices(Part).get(name)
    if kind is None:
        return ""
    room = ".".join(kind.__module__.split(".")[:2])
    return f"; add: from {room if hasattr(sys.modules.get(room), name) else kind.__module__} import {name}"


def handle_help(experiment: NamedExperiment, words: Sequence[str], verb: Part | None = None) -> bool:
    """Show the help if --help is among the words, with the parts that the other words name. Returns whether it is."""
    others = [word for word in words if word not in ("--help", "-h")]
    if len(others) == len(words):
        return False
    from core.cli.help import page

    try:
        declared = experiment.parse([word for word in others if word != "all"], verb).experiment
    except UserError:
        declared = experiment.experiment
    page(experiment.module, declared, experiment.command, others, verb)
    return True


def execute(experiment: NamedExperiment, action: Callable[[], int]) -> int:
    """Run a verb of an experiment, printing messages about errors. Returns the exit status. Raises UserError."""
    try:
        return guarded(experiment.command, action)
    except DataError as error:
        embedded = [name for name, kind in choices(Dataset).items() if kind.embedded]  # type: ignore[type-abstract]
        if experiment.experiment.data.embedded:
            raise
        advice = f"To train the same network now on data that need no download: {experiment.command} --data"
        raise DataError([*error.lines, f"{advice} {embedded[0]}"]) from None


def run_verb(
    verb: str, words: Sequence[str], action: Callable[[NamedExperiment, Options], int], own: Part | None = None
) -> int:
    """Find the experiment and run a verb of it, or show the help. Returns the exit status. Raises UserError.

    own: the part whose fields are options of this verb.
    """
    experiment, rest = find_experiment(verb, words)
    if handle_help(experiment, rest, own):
        return 0
    options = experiment.parse(rest, own)
    return execute(experiment, lambda: action(experiment, options))


def only_one(options: Options, verb: str) -> None:
    """Raises UserError for options that only apply to training."""
    given = {
        "--seeds": (options.seeds or 1) > 1,
        "--folds": options.folds is not None,
        "--processes": options.processes is not None,
        "--continue": options.continued is not None,
        "--batch_size auto": options.auto_batch,
        "--name": bool(options.name),
        "--tags": bool(options.tags),
    }
    if wrong := [f"{name}: only for training, not for {verb}; leave it out" for name, there in given.items() if there]:
        raise UserError(wrong)
