"""The command line that every experiment has. It does nothing that `core.train` does not do from Python."""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from pydantic import ValidationError

from core import paths
from core.experiment import Experiment
from core.images import DataError, Dataset
from core.options import Options, parse
from core.part import Mistakes, choices, dotted, message
from core.spelling import did_you_mean
from core.terminal import mute

VERBS = {"train": "train it (also when no verb is given)"}


def main(package: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line of experiments.<name>. Exits 0, 1 (failed), 2 (a mistake of the user), 128 + signal."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = f"python -m {package}"
    try:
        sys.exit(_run(package, command, arguments))
    except BrokenPipeError:
        mute()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(package: str, command: str, arguments: Sequence[str]) -> int:
    importlib.import_module("data")  # so that every data set can be named
    try:
        module = importlib.import_module(package)
    except ValidationError as error:
        folder = package.rsplit(".", 1)[-1]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if folder in frame.filename]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
        return explain(command, Mistakes(f"{place}{dotted(e['loc'])}: {message(e)}" for e in error.errors()))
    verb, rest = (
        (arguments[0], arguments[1:]) if arguments and not arguments[0].startswith("-") else ("train", arguments)
    )
    if "--help" in rest or "-h" in rest or verb == "help":
        from core.help import show

        show(module, command, VERBS)
        sys.stdout.flush()
        return 0
    try:
        if verb not in VERBS:
            hint = did_you_mean(verb, VERBS) or f"; there is {', '.join(VERBS)}"
            raise Mistakes([f"{verb}: no such verb{hint}"])
        options = parse(rest, module.EXPERIMENT, getattr(module, "VARIANTS", {}))
        return _train(module, options)
    except Mistakes as mistakes:
        return explain(command, mistakes, _advice(mistakes, command, module.EXPERIMENT))


def explain(command: str, mistakes: Mistakes, advice: Sequence[str] = ()) -> int:
    """Print what the user got wrong, all of it; the exit status."""
    count = len(mistakes.lines)
    print(
        f"{command}: {'nothing was started' if count == 1 else f'nothing was started, {count} mistakes'}",
        file=sys.stderr,
    )
    for line in [*mistakes.lines, *advice]:
        print(f"  {line}", file=sys.stderr)
    return 2


def _train(module: ModuleType, options: Options) -> int:
    from core.nonfinite import NonFinite
    from core.run import train
    from core.seeds import train_seeds
    from core.signals import Interrupted
    from core.writing import Heading

    name = module.__name__.rsplit(".", 1)[-1]
    heading = Heading(name, options.variant, options.title, (module.__doc__ or "").strip())
    try:
        if options.seeds > 1:
            from core.report import report_seeds

            seeds = train_seeds(options.experiment, options.seeds, options.launch, heading)
            report_seeds(seeds)
            return 1 if seeds.failed else 0
        from core.report import report

        report(train(options.experiment, options.launch, heading))
        return 0
    except Interrupted as interrupted:
        print(f"\n{interrupted}", file=sys.stderr)
        return 128 + interrupted.number
    except NonFinite as error:
        print(f"\nfailed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"\nfailed: {error.strerror}; what was recorded until then is in {paths.runs()}", file=sys.stderr)
        return 1


def _advice(mistakes: Mistakes, command: str, experiment: Experiment) -> list[str]:
    embedded = [name for name, kind in choices(Dataset).items() if kind.embedded]  # type: ignore[type-abstract]
    if not isinstance(mistakes, DataError) or experiment.data.embedded:
        return []
    return [f"To train this same network at once on data that need no download: {command} --data {embedded[0]}"]
