"""labbook launch: an experiment as a job of Slurm, or of this machine, that goes on by itself after a preemption.

This file is its command line; core/submission.py submits, and core/task.py is what a task of the job does.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from core.part import Mistakes, Part, dotted, message
from core.spelling import did_you_mean

USAGE = """usage: labbook launch [--option value ...] EXPERIMENT [verb] [--name value ...]

What stands before the experiment's name is the launcher's; what stands after it is what would stand after
`python -m experiments.EXPERIMENT`, whose --help lists it.

  labbook launch digits_cnn --epochs 60                            a job on this machine
  labbook launch --gpus_per_node 4 cifar_resnet                    four tasks, one per GPU, on this machine
  labbook launch --cluster slurm --nodes 2 --gpus_per_node 4 --hours 4 --partition gpu cifar_resnet --epochs 60
  labbook launch --cluster slurm --gpus_per_node 1 cifar_resnet resume RUN

options"""

BARE = ("true", "false", "none", "yes", "no", "on", "off", "1", "0")  # what may follow --wait
ONLY_SLURM = ("cpus_per_task", "mem_gb", "partition", "account", "qos", "constraint", "setup", "sbatch")


class Launcher(Part):
    """What a job asks of the cluster."""

    cluster: Literal["local", "slurm"] = Field("local", description="local (this machine) or slurm")
    nodes: int = Field(1, ge=1, description="machines")
    tasks_per_node: int | None = Field(None, ge=1, description="processes on each; none: one per GPU, at least one")
    gpus_per_node: int | None = Field(None, ge=0, description="GPUs on each; none: on local all that are visible here")
    cpus_per_task: int | None = Field(None, ge=1, description="CPU cores of a task; none: the cluster's default")
    mem_gb: float | None = Field(None, gt=0, description="memory of a node in GB; none: the cluster's default")
    hours: float = Field(24.0, gt=0, description="time limit of one round; the run goes on in the next round")
    rounds: int = Field(10, ge=1, description="how often it may reach its time limit; on local 6 at most")
    save_seconds: int = Field(120, ge=1, description="how long before the time limit a task is told to save and stop")
    partition: str | None = Field(None, description="of Slurm; none: the cluster's default")
    account: str | None = Field(None, description="of Slurm, that pays")
    qos: str | None = Field(None, description="quality of service of Slurm")
    constraint: str | None = Field(None, description="features that a node must have, in Slurm's words")
    setup: tuple[str, ...] = Field((), description="shell commands before the tasks, as a JSON list or comma-separated")
    sbatch: tuple[str, ...] = Field((), description="other options of sbatch, name=value or name; a list like setup")
    wait: bool | None = Field(None, description="show the log, end with the job's status; none: on local only")

    @field_validator("sbatch")
    @classmethod
    def _sbatch_options_have_names(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [text for text in options if text.startswith("-") or not text.partition("=")[0]]:
            raise ValueError(f"should be name=value without dashes, not {', '.join(wrong)}")
        return options

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or max(1, self.gpus_per_node or 0)

    @property
    def waits(self) -> bool:
        return self.cluster == "local" if self.wait is None else self.wait

    def mistakes(self) -> Iterator[str]:
        """What cannot be had together, or not here."""
        if self.gpus_per_node and self.tasks > self.gpus_per_node:
            yield f"--tasks_per_node {self.tasks}: a task takes a GPU, and --gpus_per_node is {self.gpus_per_node}"
        if self.save_seconds >= self.hours * 3600:
            yield f"--save_seconds {self.save_seconds}: leaves nothing of {self.hours:g} hours"
        if self.cluster == "slurm":
            if missing := [name for name in ("sbatch", "srun", "scontrol") if not shutil.which(name)]:
                yield f"--cluster slurm: there is no {', '.join(missing)} here; type it where jobs are submitted"
            return
        if self.nodes > 1:
            yield f"--nodes {self.nodes}: local is one machine; for more: --cluster slurm"
        given = [name for name in ONLY_SLURM if getattr(self, name) != type(self).model_fields[name].default]
        yield from (f"--{name}: only --cluster slurm knows it" for name in given)
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        if seen is not None and (self.gpus_per_node or 0) > len(seen.split(",")):
            yield f"--gpus_per_node {self.gpus_per_node}: CUDA_VISIBLE_DEVICES={seen} shows fewer"


def main(words: Sequence[str]) -> int:
    """The verb launch; the exit status. Raises Mistakes before anything is submitted."""
    if not words or "--help" in words or "-h" in words:
        from core.help import fields

        print(USAGE)
        fields(Launcher())
        return 0 if words else 2
    from core.submission import follow, submit

    launcher, name, own = parse(words)
    job = submit(launcher, name, own)
    return follow(job, launcher) if launcher.waits else 0


def parse(words: Sequence[str]) -> tuple[Launcher, str, tuple[str, ...]]:
    """What a command line asks for: the launcher, the experiment, its own words. Raises Mistakes, all at once."""
    importlib.import_module("data")  # so that every data set can be named
    package = importlib.import_module("experiments")
    known = sorted(found.name for found in pkgutil.iter_modules(package.__path__) if found.ispkg)
    given, rest, wrong = _split(words, known)
    launcher, name = Launcher(), rest[0] if rest else ""
    try:
        importlib.import_module("submitit")
    except ImportError:
        wrong.append('submitit is missing, which submits the job: pip install -e ".[slurm]"')
    try:
        launcher = launcher.but(given)
    except Mistakes as mistakes:
        wrong += [_as_option(line, name) for line in mistakes.lines]
        refused = {line.partition(":")[0] for line in mistakes.lines}
        launcher = launcher.but({option: value for option, value in given.items() if option not in refused})
    wrong += launcher.mistakes()
    own: tuple[str, ...] = ()
    if not name:
        wrong.append(f"name an experiment: {', '.join(known)}")
    elif name not in known:
        wrong.append(f"{name}: no such experiment{did_you_mean(name, known) or '; there is ' + ', '.join(known)}")
    else:
        try:
            own = _checked(name, rest[1:])
        except Mistakes as mistakes:
            wrong += _misplaced(mistakes.lines, name)
    if wrong:
        raise Mistakes(wrong)
    return launcher, name, own


def _split(words: Sequence[str], known: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """The launcher's options, the words from the experiment's name on, and what is wrong between."""
    given: dict[str, Any] = {}
    wrong: list[str] = []
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if not equals:
            value = rest.pop(0) if rest and _is_value(rest[0], name, known) else "true" if name == "wait" else ""
        if name in given:
            wrong.append(f"--{name}: given twice")
        try:
            given[name] = json.loads(value) if value.startswith("[") else value
        except ValueError as error:
            wrong.append(f"--{name} {value}: not JSON: {error}")
    return given, rest, wrong


def _is_value(word: str, name: str, known: Sequence[str]) -> bool:
    """Whether this word belongs to the option before it: not every option needs a value, nor is every one known."""
    if name == "wait":
        return word.lower() in BARE
    return not word.startswith("--") and (name in Launcher.model_fields or word not in known)


def _as_option(line: str, name: str) -> str:
    from core.experiment import Experiment
    from core.launch import Launch

    option = line.partition(":")[0]
    if "no such field" in line and option.split(".")[0] in {*Experiment.model_fields, *Launch.model_fields}:
        return f"--{option}: the experiment's own options stand after its name{f', {name}' if name else ''}"
    return "--" + line.replace("no such field", "no such option").replace("did you mean ", "did you mean --")


def _misplaced(lines: Sequence[str], name: str) -> Iterator[str]:
    """What is wrong with the experiment's own words, where some of them are the launcher's."""
    for line in lines:
        option = line.removeprefix("--").partition(":")[0]
        found = line.startswith("--") and "no such" in line and option in Launcher.model_fields
        yield f"--{option}: the launcher's options stand before {name}" if found else line


def _checked(name: str, words: Sequence[str]) -> tuple[str, ...]:
    """The experiment's own words as every round will run them. Raises Mistakes as its own command line would."""
    from core.build import check
    from core.cli import VERBS
    from core.options import parse as parse_own
    from core.record import load
    from core.run import interrupted

    try:
        module = importlib.import_module(f"experiments.{name}")
    except ValidationError as error:
        raise Mistakes(f"experiments.{name}: {dotted(e['loc'])}: {message(e)}" for e in error.errors()) from None
    verb, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else ("train", words)
    if verb not in VERBS:
        raise Mistakes([f"{verb}: no such verb{did_you_mean(verb, VERBS) or '; there is ' + ', '.join(VERBS)}"])
    if verb == "train":
        check(parse_own(rest, module.EXPERIMENT, getattr(module, "VARIANTS", {})).experiment)
    if verb == "resume" and len(rest) < 2:
        run = load(rest[0]) if rest else interrupted(name)
        if run.status in ("FINISHED", "FAILED"):
            raise Mistakes([f"{run.id} is {run.status}: there is nothing to resume"])
        return verb, run.id  # by its name: "the latest" could be another one after a requeue
    return tuple(words)
