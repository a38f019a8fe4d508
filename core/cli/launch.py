"""labbook launch: run an experiment as a job of Slurm, Ray or this machine; the job resumes itself after a preemption.

This file is its command line; core/cluster/submit.py submits, and core/cluster/task.py is what a task of the job does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from core.catalogue import experiments, import_data, package_of
from core.cluster.job import Launcher
from core.common.errors import UserError
from core.common.extras import lacking
from core.common.text import suggestion
from core.declare.changes import changed
from core.options import pairs
from core.tracking import alert

USAGE = """usage: labbook launch [--option value ...] EXPERIMENT [VERB] [--option value ...]

Options before the name of the experiment are those of the job, listed below. Options after it are those of the
experiment; python -m experiments.EXPERIMENT --help lists them.

  labbook launch digits_cnn --epochs 60                            a job on this machine
  labbook launch --gpus_per_node 4 cifar_resnet                    four tasks, one per GPU, on this machine
  labbook launch --cluster slurm --gpus_per_node 1 cifar_resnet resume RUN
  labbook launch --cluster slurm --nodes 2 --gpus_per_node 4 --hours 4 --partition gpu cifar_resnet
  labbook launch --cluster ray --nodes 2 --gpus_per_node 4 cifar_resnet
"""

BARE = ("true", "false", "none", "yes", "no", "on", "off", "1", "0")  # what may follow --wait


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError before anything is submitted."""
    if not words or "--help" in words or "-h" in words:
        from core.cli.help import fields
        from core.common.layout import Group, show

        show(USAGE, [Group("Options of the job", tuple(fields(Launcher())))])
        return 0 if words else 2
    from core.cluster.submit import follow, submit

    launcher, name, own = parse(words)
    job = submit(launcher, name, _without_alert(launcher, own))
    return follow(job, launcher) if launcher.waits else 0


def _without_alert(launcher: Launcher, words: Sequence[str]) -> tuple[str, ...]:
    """The words without --notify, which the job inherits as an environment variable: its value is often a secret, and
    the words are written to the job's folder. Raises UserError if the environment does not reach the job."""
    left: list[str] = []
    for before, word in pairwise(["", *words]):
        if before == "--notify":
            left.pop()
            os.environ[alert.VARIABLE] = word
        elif word.startswith("--notify="):
            os.environ[alert.VARIABLE] = word.partition("=")[2]
        else:
            left.append(word)
    exported = dict(option.partition("=")[::2] for option in launcher.sbatch).get("export", "ALL")
    if len(left) < len(words) and "ALL" not in exported.split(","):
        raise UserError([f"--notify: with --sbatch export={exported}, the job does not get it; remove one of them"])
    return tuple(left)


def parse(words: Sequence[str]) -> tuple[Launcher, str, tuple[str, ...]]:
    """Returns (options of the job, name of the experiment, words after it). Raises UserError with every error."""
    import_data()  # so that every data set can be named
    known = experiments()
    given, rest, wrong = _split(words, known)
    launcher, name = Launcher(), rest[0] if rest else ""
    wrong += lacking("submitit", "ray" if given.get("cluster") == "ray" else "slurm", "labbook launch")
    try:
        launcher = changed(launcher, given, "option", "--")
    except UserError as mistakes:
        wrong += [_of_experiment(line, name) for line in mistakes.lines]
        refused = {line.removeprefix("--").partition(":")[0] for line in mistakes.lines}
        launcher = launcher.but({option: value for option, value in given.items() if option not in refused})
    wrong += launcher.mistakes()
    if launcher.cluster == "ray":
        wrong += lacking("ray", "ray", "--cluster ray")
    own: tuple[str, ...] = ()
    if not name:
        wrong.append(f"EXPERIMENT is missing{suggestion('', known)}")
    else:
        try:
            package_of(name)
            own = checked(name, rest[1:])
        except UserError as mistakes:
            wrong += _misplaced(mistakes.lines, name)
    count = launcher.nodes * launcher.tasks
    if count > 1 and "processes" in pairs(own)[0]:
        wrong.append(f"--processes: the job has {count} tasks already; leave it out, or start a single task")
    if wrong:
        raise UserError(wrong)
    return launcher, name, own


def _split(words: Sequence[str], known: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """(options of the job, the words from the experiment's name on, errors)."""
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
    """Whether this word is the value of the option before it, which may be a flag, or unknown."""
    if name == "wait":
        return word.lower() in BARE
    return not word.startswith("--") and (name in Launcher.model_fields or word not in known)


def _of_experiment(line: str, name: str) -> str:
    """The error about an option of the job, improved if it is an option of the experiment."""
    from core.experiment import Experiment
    from core.launch import Launch

    option = line.removeprefix("--").partition(":")[0]
    if "unknown option" in line and option.split(".")[0] in {*Experiment.model_fields, *Launch.model_fields}:
        return f"--{option}: is an option of the experiment; write it after the name{f' {name}' if name else ''}"
    return line


def _misplaced(lines: Sequence[str], name: str) -> Iterator[str]:
    """Yield the errors about the words of the experiment, improved if they are options of the job."""
    for line in lines:
        option = line.removeprefix("--").partition(":")[0]
        found = "unknown option" in line and option in Launcher.model_fields
        yield f"--{option}: is an option of the job; write it before the name {name}" if found else line


def checked(name: str, words: Sequence[str]) -> tuple[str, ...]:
    """The words of the experiment as every start of the job runs them. Raises UserError as its command line does."""
    from core.cli.decide import is_decided, parse_variants
    from core.cli.find_experiment import NamedExperiment, imported
    from core.cli.help import OF_VERBS
    from core.cli.processes import taken
    from core.cli.verbs import OF_AN_EXPERIMENT
    from core.options import parse as parse_own
    from core.runs.resume import interrupted
    from core.runs.trained import load
    from core.training.assemble import check

    module = imported(f"experiments.{name}")
    verb, rest = (words[0], words[1:]) if words and not words[0].startswith("-") else ("train", words)
    if verb not in OF_AN_EXPERIMENT:
        raise UserError([f"{verb}: unknown verb{suggestion(verb, OF_AN_EXPERIMENT)}"])
    if verb == "train" and is_decided(rest):
        asked = parse_variants(NamedExperiment(module), rest)
        for setting in (*asked.settings, asked.against):
            check(setting.declaration)
    elif verb == "train":
        check(parse_own(rest, module.EXPERIMENT, getattr(module, "VARIANTS", {})).experiment)
    elif verb in OF_VERBS:
        check(parse_own(rest, module.EXPERIMENT, getattr(module, "VARIANTS", {}), OF_VERBS[verb]).experiment)
    rest, processes = taken(rest)
    if verb == "resume" and len(rest) < 2:
        run = load(rest[0]) if rest else interrupted(name)
        if run.status in ("FINISHED", "FAILED"):
            raise UserError([f"{run.id} is {run.status}: it cannot be resumed"])
        count = ("--processes", str(processes)) if processes else ()
        return verb, run.id, *count  # by its id, because after a requeue another run could be the latest
    return tuple(words)
