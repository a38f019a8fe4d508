"""The command line that every experiment has. It does nothing that `core.train` does not do from Python."""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
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

VERBS = {
    "train": "train it (also when no verb is given)",
    "resume": "go on with the latest interrupted run, or with the one named",
}


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
        if verb == "resume":
            return _guarded(command, lambda: _resume(module, rest))
        options = parse(rest, module.EXPERIMENT, getattr(module, "VARIANTS", {}))
        return _guarded(command, lambda: _train(module, options))
    except Mistakes as mistakes:
        return explain(command, mistakes, _advice(mistakes, command, module.EXPERIMENT))


def explain(command: str, mistakes: Mistakes, advice: Sequence[str] = ()) -> int:
    """Print what the user got wrong, all of it; the exit status."""
    # the lines of a DataError tell of one thing
    count = 1 if isinstance(mistakes, DataError) else len(mistakes.lines)
    print(f"{command}: nothing was started" + (f", {count} mistakes" if count > 1 else ""), file=sys.stderr)
    for line in [*mistakes.lines, *advice]:
        print(f"  {line}", file=sys.stderr)
    return 2


def _guarded(command: str, action: Callable[[], int]) -> int:
    """The exit status of what ends in other ways than well."""
    from core.nonfinite import NonFinite
    from core.signals import Interrupted

    try:
        return action()
    except Interrupted as interrupted:
        print(f"\n{interrupted}", file=sys.stderr)
        if interrupted.run:
            print(f"go on with: {command} resume {interrupted.run}", file=sys.stderr)
        return 128 + interrupted.number
    except NonFinite as error:
        print(f"\nfailed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"\nfailed: {error.strerror}; what was recorded until then is in {paths.runs()}", file=sys.stderr)
        return 1


def _train(module: ModuleType, options: Options) -> int:
    from core.report import report, report_seeds
    from core.run import train
    from core.seeds import train_seeds
    from core.writing import Heading

    heading = Heading(_name(module), options.variant, options.title, (module.__doc__ or "").strip())
    if options.seeds > 1:
        seeds = train_seeds(options.experiment, options.seeds, options.launch, heading)
        report_seeds(seeds)
        return 1 if seeds.failed else 0
    report(train(options.experiment, options.launch, heading))
    return 0


def _resume(module: ModuleType, words: Sequence[str]) -> int:
    from core.record import load
    from core.report import report
    from core.run import interrupted, resume

    if len(words) > 1 or (words and words[0].startswith("-")):
        raise Mistakes([f"resume takes a run, or nothing for the latest interrupted one, not {' '.join(words)}"])
    report(resume(load(words[0]) if words else interrupted(_name(module))))
    return 0


def _name(module: ModuleType) -> str:
    return module.__name__.rsplit(".", 1)[-1]


def _advice(mistakes: Mistakes, command: str, experiment: Experiment) -> list[str]:
    embedded = [name for name, kind in choices(Dataset).items() if kind.embedded]  # type: ignore[type-abstract]
    if not isinstance(mistakes, DataError) or experiment.data.embedded:
        return []
    return [f"To train this same network at once on data that need no download: {command} --data {embedded[0]}"]
