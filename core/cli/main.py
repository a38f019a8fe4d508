"""`labbook VERB ...` and `python -m experiments.NAME [VERB] ...`: both end in core/cli/VERB.py.

Exit status 0; 1 where it failed or something is left to do; 2 for a mistake of the user; 128 + signal.
"""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Sequence
from typing import NoReturn

from core.cli.exits import explain
from core.common.errors import UserError
from core.common.ranks import ranks_here
from core.common.terminal import mute
from core.common.text import did_you_mean

# python -m experiments.NAME VERB is the same as labbook VERB NAME
OF_AN_EXPERIMENT = {
    "train": "train it (also when no verb is given)",
    "resume": "go on with the latest interrupted run, or with the one named",
    "search": "an Optuna study over SPACE; the same command goes on with one that was interrupted",
    "lr_find": "try growing learning rates on a copy, suggest one, plot; nothing is recorded as a run",
    "summary": "layers, output shapes, parameters, FLOPs; nothing is trained",
    "look": "what the network sees, as a PNG; --to PATH says where",
}
OTHERS = {
    "cache": "what has been decoded into data/store; cache --prune DAYS makes room",
    "check": "check PATH: what is wrong with images of one's own, before a run takes them",
    "compare": "settings on record: seeds folded together, differences with intervals",
    "figures": "the READMEs' numbers and pictures anew from the record, or what is missing",
    "import": "import PATH ...: old runs, of TensorBoard or CSV logs, into the record",
    "launch": "an experiment as a job of Slurm or of this machine; it goes on after a preemption",
    "list": "every experiment: question, command, expected, best on record",
    "register": "register RUN NAME [--alias ALIAS]: its model into MLflow's registry, to be served",
    "report": "report RUN: a page that looks into a finished run, made anew",
    "rerun": "rerun RUN: the same declaration once more, and whether the same comes out",
    "sync": "send to MLflow what it lacks (of the runs named, or of all)",
    "ui": "MLflow's pages over the right store, on this machine, in the browser",
}


def labbook() -> NoReturn:
    """The command `labbook`, and `python -m core`."""
    words = sys.argv[1:]
    if words and words[0] not in ("-h", "--help", "help"):
        sys.exit(run(words[0], words[1:], "labbook", OF_AN_EXPERIMENT | OTHERS))
    print(
        "usage: labbook VERB\n\nwhat concerns one experiment: labbook VERB NAME, or python -m experiments.NAME VERB\n"
    )
    _print(OF_AN_EXPERIMENT)
    print("\nwhat concerns runs, the record, the data\n")
    _print(OTHERS)
    sys.exit(0 if words else 2)


def experiment(package: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """The command line that every experiment has: `python -m experiments.NAME [VERB]`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = words.pop(0) if words and not words[0].startswith("-") else "train"
    verb, words = ("train", ["--help"]) if verb == "help" else (verb, words)
    sys.exit(run(verb, [package, *words], f"python -m {package}", OF_AN_EXPERIMENT))


def run(verb: str, words: Sequence[str], command: str, known: dict[str, str]) -> int:
    """Do what a verb does; the exit status."""
    if ranks_here().rank:  # one of several processes speaks for all
        mute()
    try:
        if verb not in known:
            raise UserError([f"{verb}: no such verb{did_you_mean(verb, known) or '; there is ' + ', '.join(known)}"])
        name = f"{verb}_" if keyword.iskeyword(verb) else verb
        status: int = importlib.import_module(f"core.cli.{name}").main(words)
        sys.stdout.flush()
        return status
    except UserError as mistakes:
        return explain(command, mistakes)
    except BrokenPipeError:
        mute()
        return 0
    except KeyboardInterrupt:
        return 130


def _print(verbs: dict[str, str]) -> None:
    for verb, meaning in verbs.items():
        print(f"  {verb:<12} {meaning}")
