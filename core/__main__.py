"""labbook VERB: what concerns runs, not one experiment. The same as `python -m core VERB`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from core import journal, paths
from core.part import Mistakes
from core.spelling import did_you_mean


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
        sys.exit(VERBS[words[0]][0](words[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except Mistakes as mistakes:
        for line in mistakes.lines:
            print(f"labbook: {line}", file=sys.stderr)
        sys.exit(2)


def _list(words: Sequence[str]) -> int:
    from core.listing import show

    if words:
        raise Mistakes([f"list takes no {words[0]}"])
    show()
    return 0


def _sync(words: Sequence[str]) -> int:
    """Send to MLflow what it lacks, of all runs or of those named."""
    from core.record import load
    from core.tracking import sync, tracking_uri
    from core.tracking.record import public

    every = sorted(path.parent for path in paths.runs().glob(f"*/{journal.FILE}"))
    folders = [load(word).folder for word in words] or every
    standings = sync(folders)
    for standing in standings:
        for refused in standing.refused:
            print(f"{standing.run}: MLflow refused {refused}")
        if not standing.complete:
            print(f"{standing.run}: {standing.waiting} entries wait: {standing.why}")
    complete = sum(standing.complete for standing in standings)
    print(f"{complete} of {len(standings)} runs are complete in {public(tracking_uri())}")
    return 0 if complete == len(standings) else 1


def _check(words: Sequence[str]) -> int:
    import importlib

    status: int = importlib.import_module("data.check.command").main(words)
    return status


def _compare(words: Sequence[str]) -> int:
    from core.compare.command import main

    return main(words)


def _import(words: Sequence[str]) -> int:
    from core.importing.command import main

    return main(words)


def _launch(words: Sequence[str]) -> int:
    from core.launcher import main

    return main(words)


def _look(words: Sequence[str]) -> int:
    """Write what the network of an experiment would see, with any of its options, and --to PATH."""
    import importlib
    from pathlib import Path

    from core.listing import entries
    from core.look import look
    from core.options import parse

    known = [entry.name for entry in entries()]
    if "--help" in words or "-h" in words:
        print(f"usage: labbook {VERBS['look'][1]}\n\nNAME: {', '.join(known)}")
        print("its options: python -m experiments.NAME --help")
        return 0
    if not words or words[0].startswith("-"):
        raise Mistakes([f"look needs an experiment: {', '.join(known)}"])
    name, rest = words[0], list(words[1:])
    if name not in known:
        raise Mistakes([f"look {name}: no such experiment{did_you_mean(name, known)}; there is {', '.join(known)}"])
    path = Path(f"look_{name}.png")
    if "--to" in rest:
        place = rest.index("--to")
        _, *given = rest[place : place + 2]
        if not given or not Path(given[0]).absolute().parent.is_dir():
            raise Mistakes(["--to: needs the path of a PNG in a folder that exists"])
        path = Path(given[0])
        del rest[place : place + 2]
    importlib.import_module("data")
    module = importlib.import_module(f"experiments.{name}")
    options = parse(rest, module.EXPERIMENT, getattr(module, "VARIANTS", {}))
    print(look(options.experiment, options.launch, path))
    return 0


def _report(words: Sequence[str]) -> int:
    from core.report.command import main

    return main(words)


def _register(words: Sequence[str]) -> int:
    from core.register import main

    return main(words)


def _rerun(words: Sequence[str]) -> int:
    from core.rerun import main

    return main(words)


def _ui(words: Sequence[str]) -> int:
    from core.ui import main

    return main(words)


VERBS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "check": (_check, "check PATH [--run RUN]: what is wrong with images of your own, before a run takes them"),
    "compare": (_compare, "settings on record: seeds folded together, differences with intervals"),
    "import": (_import, "import PATH ...: old runs, of TensorBoard or CSV logs, taken into the record"),
    "list": (_list, "every experiment: question, command, expected, best on record"),
    "launch": (_launch, "an experiment as a job of Slurm or of this machine; it goes on after a preemption"),
    "look": (_look, "look NAME [--option value ...] [--to PATH]: what the network sees, as a PNG"),
    "report": (_report, "report RUN: a page that looks into a finished run, made anew"),
    "register": (_register, "register RUN NAME [--alias ALIAS]: its model into MLflow's registry, ready to be served"),
    "rerun": (_rerun, "rerun RUN: the same declaration once more, and whether the same comes out"),
    "sync": (_sync, "send to MLflow what it lacks (of the runs named, or of all)"),
    "ui": (_ui, "MLflow's pages over the right store, on this machine, in the browser"),
}

if __name__ == "__main__":
    main()
