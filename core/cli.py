"""The command line that every experiment has. It does nothing that `core.train` does not do from Python."""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from pydantic import ValidationError

from core import paths
from core.experiment import Experiment
from core.images import DataError, Dataset
from core.options import Options, parse
from core.part import Mistakes, choices, dotted, message
from core.range_test import RangeTest
from core.ranks import invocation, is_restart, ranks_here
from core.record import Run, load
from core.search.options import Search
from core.spelling import did_you_mean
from core.terminal import mute, tell

if TYPE_CHECKING:
    from core.seeds import Seeds

PARTS = {"search": Search(), "lr_find": RangeTest()}  # verbs with options of their own
VERBS = {
    "train": "train it (also when no verb is given)",
    "resume": "go on with the latest interrupted run, or with the one named",
    "search": "an Optuna study over SPACE; the same command goes on with one that was interrupted",
    "lr_find": "try growing learning rates on a copy, suggest one, plot; nothing is recorded as a run",
    "summary": "layers, output shapes, parameters, FLOPs; nothing is trained",
}


def main(package: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line of experiments.<name>. Exits 0, 1 (failed), 2 (a mistake of the user), 128 + signal."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if ranks_here().rank:  # one of several processes speaks for all
        mute()
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

        show(module, _asked_about(module, verb, rest), command, VERBS, PARTS)
        sys.stdout.flush()
        return 0
    try:
        if verb not in VERBS:
            hint = did_you_mean(verb, VERBS) or f"; there is {', '.join(VERBS)}"
            raise Mistakes([f"{verb}: no such verb{hint}"])
        if verb == "resume":
            return guarded(command, lambda: _resume(module, rest))
        options = parse(rest, module.EXPERIMENT, getattr(module, "VARIANTS", {}), PARTS.get(verb))
        action = {"train": _train, "search": _search, "lr_find": _lr_find, "summary": _summary}[verb]
        return guarded(command, lambda: action(module, options))
    except Mistakes as mistakes:
        return explain(command, mistakes, _advice(mistakes, command, module.EXPERIMENT))


def _asked_about(module: ModuleType, verb: str, words: Sequence[str]) -> Experiment:
    """The declaration that --help shows: with the parts that the other words name, where nothing is wrong with them."""
    others = [word for word in words if word not in ("--help", "-h")]
    try:
        return parse(others, module.EXPERIMENT, getattr(module, "VARIANTS", {}), PARTS.get(verb)).experiment
    except Mistakes:
        return module.EXPERIMENT


def explain(command: str, mistakes: Mistakes, advice: Sequence[str] = ()) -> int:
    """Print what the user got wrong, all of it; the exit status."""
    # the lines of a DataError tell of one thing
    count = 1 if isinstance(mistakes, DataError) else len(mistakes.lines)
    title = f"{command}: nothing was started" + (f", {count} mistakes" if count > 1 else "")
    if not ranks_here().rank:
        print("\n  ".join([title, *mistakes.lines, *advice]), file=sys.stderr)
    return 2


def guarded(command: str, action: Callable[[], int]) -> int:
    """The exit status of what ends in other ways than well."""
    from core.distributed import PeerLost, joined
    from core.failures import Failing, OutOfMemory, Unfinished
    from core.nonfinite import NonFinite
    from core.signals import Interrupted
    from core.workers import WorkerLost

    here = ranks_here()

    def complain(*lines: str) -> None:
        speaker = f"process {here.rank}: " if here.rank else ""
        print("", *(f"{speaker}{line}" for line in lines), sep="\n", file=sys.stderr)

    several = f"torchrun --nproc-per-node {here.local_ranks} -m {command.split()[-1]}"
    go_on = f"go on with: {several if here.ranks > 1 else command} resume"
    try:
        with joined():
            return action()
    except Interrupted as interrupted:
        if not here.rank:
            complain(str(interrupted), *([f"{go_on} {interrupted.run}"] if interrupted.run else []))
        return 128 + interrupted.number
    except Unfinished as error:
        complain(f"stopped: {error}", f"{go_on} {error.run}")
    except (Failing, NonFinite, OutOfMemory, PeerLost, WorkerLost) as error:
        complain(f"failed: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        complain(f"failed: {error.strerror}; what was recorded until then is in {paths.runs()}")
    return 1


def _train(module: ModuleType, options: Options) -> int:
    from core.distributed import from_first, met_before
    from core.run import begun, train
    from core.seeds import train_seeds
    from core.writing import Heading

    name = _name(module)
    again = is_restart() or met_before()
    earlier = begun(options.experiment, name, invocation(), options.seeds or 1) if again else None
    earlier, finished = from_first((earlier, earlier is not None and earlier.status == "FINISHED"))
    if earlier:
        tell(f"{earlier.id}, begun by an earlier start of this job, {'has finished' if finished else 'goes on'}")
        return 0 if finished else _go_on(earlier)
    heading = Heading(name, options.variant, options.title, (module.__doc__ or "").strip())
    if (options.seeds or 1) > 1:
        return _told(train_seeds(options.experiment, options.seeds or 1, options.launch, heading))
    return _told(train(options.experiment, options.launch, heading, continued=options.continued))


def _search(module: ModuleType, options: Options) -> int:
    from core.search.running import report, search
    from core.writing import Heading

    assert isinstance(options.verb, Search)
    if options.seeds and not options.verb.confirm:
        raise Mistakes(["--seeds: they are those of --confirm K, which retrains the K best; a trial has one seed"])
    _only_one(replace(options, seeds=None), "search")
    name = _name(module)
    if not (space := getattr(module, "SPACE", None)):
        advice = (
            "declare one in experiments/" + name + "/__init__.py: SPACE = {'optimizer.lr': Float(0.01, 1, log=True)}"
        )
        raise Mistakes([f"{name} has no SPACE to search; {advice}, with from core.search import Float"])
    heading = Heading(name, options.variant, options.title, (module.__doc__ or "").strip())
    found = search(options.experiment, space, options.verb, options.launch, heading, options.seeds or 3)
    report(found, f"python -m {module.__name__}")
    return 0


def _lr_find(module: ModuleType, options: Options) -> int:
    from core.lr_find import lr_find, report

    _only_one(options, "lr_find")
    assert isinstance(options.verb, RangeTest)
    report(lr_find(options.experiment, options.launch, options.verb, _name(module)))
    return 0


def _summary(module: ModuleType, options: Options) -> int:
    from core.summary import show, summary

    _only_one(options, "summary")
    show(summary(options.experiment, options.launch))
    return 0


def _only_one(options: Options, verb: str) -> None:
    """Raises Mistakes for what makes sense in training alone."""
    given = {"--seeds": (options.seeds or 1) > 1, "--continue": options.continued is not None}
    if wrong := [f"{name}: {verb} looks at one fresh set-up; leave it out" for name, there in given.items() if there]:
        raise Mistakes(wrong)


def _resume(module: ModuleType, words: Sequence[str]) -> int:
    from core.distributed import from_first, together
    from core.run import in_study, interrupted

    if len(words) > 1 or (words and words[0].startswith("-")):
        raise Mistakes([f"resume takes a run, or nothing for the latest interrupted one, not {' '.join(words)}"])

    def find() -> Run | None:
        return None if ranks_here().rank else load(words[0]) if words else interrupted(_name(module))

    run = from_first(together(find))
    assert run is not None
    if in_study(run):
        raise Mistakes([f"{run.id} belongs to a study: the command that searched goes on with it"])
    return _go_on(run)


def _go_on(run: Run) -> int:
    """Finish a run, or several seeds of one parent; one that has finished is told of again."""
    from core.run import resume
    from core.seeds import resume_seeds

    return _told(resume_seeds(run) if "seeds" in run.record else resume(run))


def _told(result: Run | Seeds) -> int:
    from core.outcome import report, report_seeds

    if ranks_here().rank:
        return 0
    if isinstance(result, Run):
        report(result)
        return 0
    report_seeds(result)
    return 1 if result.failed else 0


def _name(module: ModuleType) -> str:
    return module.__name__.rsplit(".", 1)[-1]


def _advice(mistakes: Mistakes, command: str, experiment: Experiment) -> list[str]:
    embedded = [name for name, kind in choices(Dataset).items() if kind.embedded]  # type: ignore[type-abstract]
    if not isinstance(mistakes, DataError) or experiment.data.embedded:
        return []
    return [f"To train this same network at once on data that need no download: {command} --data {embedded[0]}"]
