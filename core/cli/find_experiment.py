"""The experiment that a command line names: found, its options parsed, its help shown."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from core.runs.recorder import Heading


@dataclass(frozen=True)
class NamedExperiment:
    """An experiment's module, and what its folder declares."""

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
        """verb: its fields are options too. Raises UserError, all at once."""
        return parse(words, self.experiment, self.variants, verb)

    def heading(self, options: Options) -> Heading:
        """What a run is called on record."""
        return Heading(self.name, options.variant, options.title, (self.module.__doc__ or "").strip())


def find_experiment(verb: str, words: Sequence[str]) -> tuple[NamedExperiment, list[str]]:
    """(the experiment that the first word names, by its name or as a package, the other words). Raises UserError."""
    import_data()
    known = experiments()
    if not words or words[0].startswith("-"):
        raise UserError([f"EXPERIMENT is missing{suggestion('', known)}; usage: labbook {verb} EXPERIMENT"])
    name, *rest = words
    return NamedExperiment(imported(name if "." in name else package_of(name))), rest


def imported(package: str) -> ModuleType:
    """The module of an experiment. Raises UserError for a declaration with mistakes in it, naming file and line."""
    try:
        return importlib.import_module(package)
    except ValidationError as error:
        folder = package.rsplit(".", 1)[-1]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if folder in frame.filename]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
        raise UserError(f"{place}{dotted(e['loc'])}: {message(e)}" for e in error.errors()) from None


def show_help(experiment: NamedExperiment, words: Sequence[str], verb: Part | None = None) -> bool:
    """Show the help, where it is asked for, with the parts that the other words name."""
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


def run_guarded(experiment: NamedExperiment, action: Callable[[], int]) -> int:
    """The exit status of an action on an experiment. Raises UserError."""
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
    """Find the experiment, show the help if it is asked for, and otherwise act on it; the exit status.

    own: options of the verb's own. Raises UserError.
    """
    experiment, rest = find_experiment(verb, words)
    if show_help(experiment, rest, own):
        return 0
    options = experiment.parse(rest, own)
    return run_guarded(experiment, lambda: action(experiment, options))


def only_one(options: Options, verb: str) -> None:
    """Raises UserError for options that only make sense in training."""
    given = {"--seeds": (options.seeds or 1) > 1, "--continue": options.continued is not None}
    if wrong := [f"{name}: only for training, not for {verb}; leave it out" for name, there in given.items() if there]:
        raise UserError(wrong)
