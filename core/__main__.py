"""labbook VERB: what concerns runs, not one experiment. The same as `python -m core VERB`."""

from __future__ import annotations

import importlib
import sys

from core.part import Mistakes
from core.spelling import did_you_mean

# verb -> the module whose `main(words)` does it and gives the exit status, imported only then; what it is for
VERBS = {
    "cache": ("data.caches", "what has been decoded into data/store; cache --prune DAYS makes room"),
    "compare": ("core.compare.command", "settings on record: seeds folded together, differences with intervals"),
    "figures": (
        "core.figures.command",
        "the READMEs' numbers and pictures anew from the record, or what is missing",
    ),
    "import": (
        "core.importing.command",
        "import PATH ...: old runs, of TensorBoard or CSV logs, into the record",
    ),
    "launch": ("core.launcher", "an experiment as a job of Slurm or of this machine; it goes on after a preemption"),
    "list": ("core.listing", "every experiment: question, command, expected, best on record"),
    "look": ("core.look", "look NAME [--option value ...] [--to PATH]: what the network sees, as a PNG"),
    "register": ("core.register", "register RUN NAME [--alias ALIAS]: its model into MLflow's registry, to be served"),
    "report": ("core.report.command", "report RUN: a page that looks into a finished run, made anew"),
    "rerun": ("core.rerun", "rerun RUN: the same declaration once more, and whether the same comes out"),
    "sync": ("core.syncing", "send to MLflow what it lacks (of the runs named, or of all)"),
    "ui": ("core.ui", "MLflow's pages over the right store, on this machine, in the browser"),
}


def main() -> None:
    """Exit status 0, 1 where something is left to do, 2 for a mistake of the user."""
    words = sys.argv[1:]
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print("usage: labbook VERB\n")
            for verb, (_, meaning) in VERBS.items():
                print(f"  {verb:<12} {meaning}")
            print("\nto train: python -m experiments")
            sys.exit(0 if words else 2)
        if words[0] not in VERBS:
            raise Mistakes([f"{words[0]}: no such verb{did_you_mean(words[0], VERBS)}; there is {', '.join(VERBS)}"])
        module, _ = VERBS[words[0]]
        sys.exit(importlib.import_module(module).main(words[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except Mistakes as mistakes:
        for line in mistakes.lines:
            print(f"labbook: {line}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
