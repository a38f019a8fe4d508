"""labbook queue: command lines that wait in a queue until a GPU, or CPU cores, are free.

This file is its command line; core/queue/ has the entries and their runner.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence

from core.catalogue import experiments, import_data, package_of
from core.cluster.job import Launcher
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.extras import lacking
from core.common.layout import Group, Row, show
from core.common.terminal import console, tell
from core.common.text import few, suggestion
from core.queue import code, entries, grid, outcome
from core.queue.entries import Damaged, Entry
from core.queue.lifecycle import Changed, command
from core.queue.runner import Runner
from core.queue.slots import slots

USAGE = """usage: labbook queue add EXPERIMENT [VERB] [--option value ...] | list | run | retry | rm | submit

  labbook queue add cifar_resnet --epochs 30                                   one entry
  labbook queue add cifar_resnet --grid optimizer.lr=0.1,0.2 seed=0,1,2        an entry for each of six combinations
  labbook queue add --after 7 cifar_resnet search                              once entry 7 has finished
  labbook queue run                                                            one run on each GPU, until none is left
  labbook queue list                                                           what waits, runs, and has ended

labbook queue run --help shows the options of run, and so on."""
ADD = """usage: labbook queue add [--after N,M] EXPERIMENT [VERB] [--option value ...] [--grid NAME=VALUE,VALUE ...]

The command line is checked as labbook train EXPERIMENT does, and nothing is added if it is wrong. Options of the
experiment: python -m experiments.EXPERIMENT --help."""
SUBMIT = """usage: labbook queue submit [N ...] [--option value ...]

Hands entries to Slurm as one job array: those with these numbers, or all that wait for no other. With --cluster local,
all of them start on this machine at once, to try it out."""
SHOWN = 50  # entries in the list


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    verb, *rest = words or [""]
    if not verb or verb in ("-h", "--help", "help"):
        show(USAGE, [Group("Verbs", tuple(Row(name, "", meaning) for name, (_, meaning) in VERBS.items()))])
        return 0 if verb else 2
    if verb not in VERBS:
        raise UserError([f"{verb}: unknown verb{suggestion(verb, VERBS)}; usage: labbook queue VERB ..."])
    return VERBS[verb][0](rest)


def add(words: Sequence[str]) -> int:
    """labbook queue add EXPERIMENT ...: add entries. Raises UserError."""
    if not words or "--help" in words or "-h" in words:
        rows = (
            Row("--after", "N,M", "run it once these entries have finished; it is skipped if one fails"),
            Row("--grid", "NAME=VALUE,VALUE ...", "an entry for each combination; the last name varies fastest"),
        )
        show(ADD, [Group("Options", rows)])
        return 0 if words else 2
    commands, after = parse(words)
    importlib.import_module("core.runs.seeds")  # what a training imports when it starts
    before = [each for each in entries.read().values() if isinstance(each, Entry) and each.state == "waiting"]
    for made in entries.add(commands, os.getcwd(), after, code.keep()):
        twins = [each.number for each in before if each.words == made.words]
        note = f"   (entry {twins[-1]}, which waits, has the same command)" if twins else ""
        tell(f"{made.number}: {command(made)}{note}")
    return 0


def parse(words: Sequence[str]) -> tuple[list[list[str]], list[int]]:
    """Returns (the words of each entry: experiment, verb and options; the entries to wait for). Raises UserError with
    every error."""
    import_data()  # so that every data set can be named
    rest, axes, after, wrong = _split(words)
    name = rest[0] if rest and not rest[0].startswith("-") else ""
    commands: list[list[str]] = []
    try:
        combined = grid.combinations(axes)
    except UserError as mistakes:
        wrong += mistakes.lines
        combined = [[]]
    if not name:
        known = suggestion("", experiments())
        wrong.append(f"EXPERIMENT is missing, before its options{known}; usage: labbook queue add EXPERIMENT")
    else:
        for options in combined:
            try:
                package_of(name)
                commands.append([name, *_checked(name, [*rest[1:], *options])])
            except UserError as mistakes:
                wrong += mistakes.lines
    wrong += _unfit(after)
    if wrong := list(dict.fromkeys(wrong)):
        raise UserError([*wrong[:20], *([f"and {len(wrong) - 20:,} more"] if len(wrong) > 20 else [])])
    return commands, after


def _checked(name: str, words: Sequence[str]) -> tuple[str, ...]:
    """The words after the name of an experiment, as `launch` checks them. Raises UserError."""
    from core.cli.launch import checked

    options = {word.partition("=")[0]: word for word in words if word.startswith("--")}
    if "--notify" in options:
        advice = "set LABBOOK_NOTIFY where labbook queue run is started"
        raise UserError([f"--notify: its value is often a secret, and the queue is a file; {advice}"])
    if any(re.fullmatch(r"(--device=)?cuda:\d+", word) for word in words):
        raise UserError(["--device cuda:N: the queue gives each run its GPU; leave it out"])
    found = checked(name, words)
    resumed = [
        each.number
        for each in entries.read().values()
        if found[0:1] == ("resume",) and isinstance(each, Entry) and each.words == [name, *found]
        if each.state in ("waiting", "running", "submitted", "changed", "stopped")
    ]
    if resumed:
        raise UserError([f"{found[1]}: entry {resumed[0]} resumes this run already"])
    return found


def _split(words: Sequence[str]) -> tuple[list[str], list[str], list[int], list[str]]:
    """(the words of the experiment, the axes of --grid, the numbers of --after, errors)."""
    rest, axes, after, wrong = list[str](), list[str](), list[int](), list[str]()
    given = list(words)
    while given:
        word = given.pop(0)
        name, equals, value = word.partition("=")
        if name == "--after":
            value = value if equals else given.pop(0) if given else ""
            numbers = value.split(",")
            if all(number.isascii() and number.isdecimal() for number in numbers):
                after += map(int, numbers)
            else:
                wrong.append(f"--after {value}: should be numbers of entries, such as 3 or 3,4")
        elif name == "--grid":
            own = [value] if equals else []
            while given and "=" in given[0] and not given[0].startswith("--"):
                own.append(given.pop(0))
            axes += own
            if not own:
                wrong.append("--grid: needs NAME=VALUE,VALUE, such as optimizer.lr=0.1,0.2")
        else:
            rest.append(word)
    return rest, axes, after, wrong


def _unfit(after: Sequence[int]) -> list[str]:
    """What is wrong with the entries to wait for."""
    every = entries.read() if after else {}
    wrong = [f"--after {number}: the queue has no such entry" for number in after if number not in every]
    for number in after:
        one = every.get(number)
        if isinstance(one, Damaged):
            wrong.append(f"--after {number}: {one.why}")
        elif one and one.state in ("failed", "skipped"):
            advice = f"put it back into the queue first: labbook queue retry {number}"
            wrong.append(f"--after {number}: this entry is {one.state}; {advice}")
    return wrong


def run(words: Sequence[str]) -> int:
    """labbook queue run: run what waits in the queue, and resume what was interrupted.

    One run on each GPU or, with --cores, on so many CPU cores. Ctrl-C and SIGTERM make every run save; the next
    labbook queue run resumes them. Several may run at once, also on several machines that share the home.
    """
    parser = VerbParser("queue run", inspect.getdoc(run))
    parser.add_argument("--jobs", type=_positive, metavar="N", help="runs at once; one on each GPU if not given")
    parser.add_argument("--cores", type=_positive, metavar="C", help="train on the CPU, each run on so many cores")
    parser.add_argument("--forever", action="store_true", help="wait for new entries when the queue is empty")
    parser.add_argument(
        "--changed",
        choices=("hold", "run"),
        default="hold",
        help="what becomes of entries whose code has changed",
    )
    given = parser.parse_args(list(words))
    changed: Changed = given.changed
    return Runner(slots(given.jobs, given.cores), changed, given.forever).run()


def submit(words: Sequence[str]) -> int:
    """labbook queue submit [N ...] [--option value ...]: hand waiting entries to Slurm as one job array."""
    if "--help" in words or "-h" in words:
        from core.cli.help import fields

        rows = (
            Row("--at_once", "N", "most elements of the array that run at the same time"),
            Row("--changed", "hold", "what becomes of entries whose code has changed: hold or run"),
        )
        show(SUBMIT, [Group("Options", rows), Group("Options of the job", tuple(fields(Launcher(cluster="slurm"))))])
        return 0
    from core.queue import task

    task.submit(*parse_submit(words))
    return 0


def parse_submit(words: Sequence[str]) -> tuple[Launcher, list[int], Changed, int | None]:
    """Returns (options of the job, numbers of entries, what becomes of changed ones, most elements at once). Raises
    UserError with every error."""
    from core.options import change, pairs

    count = next((at for at, word in enumerate(words) if not word.isdecimal()), len(words))
    given, wrong = pairs(words[count:])
    changed = given.pop("changed", "hold")
    at_once = given.pop("at_once", None)
    if changed not in ("hold", "run"):
        wrong.append(f"--changed: should be hold or run (got {changed})")
    if at_once is not None and not (at_once.isdecimal() and int(at_once)):
        wrong.append(f"--at_once: should be a positive integer (got {at_once})")
    made, mistakes = change(Launcher(cluster="slurm"), given)
    assert isinstance(made, Launcher)
    wrong += [*mistakes, *made.mistakes()]
    wrong += lacking("submitit", "slurm", "labbook queue submit")
    if wrong:
        raise UserError(wrong)
    numbers = [int(word) for word in words[:count]]
    return made, numbers, "run" if changed == "run" else "hold", int(at_once) if at_once else None


def show_list(words: Sequence[str]) -> int:
    """labbook queue list: the entries of the queue, the earliest first."""
    parser = VerbParser("queue list", inspect.getdoc(show_list))
    parser.add_argument("--state", action="append", default=[], metavar="STATE", help="only entries in this state")
    parser.add_argument("--all", action="store_true", help=f"all entries; if not given, the latest {SHOWN}")
    parser.add_argument("--json", action="store_true", help="print all entries as a JSON list")
    given = parser.parse_args(list(words))
    states = {number: entries.shown_state(each) for number, each in entries.read().items()}
    every = {number: each for number, each in entries.read().items() if number in states}
    if given.state:
        every = {number: each for number, each in every.items() if states[number] in given.state}
    if given.json:
        print(json.dumps([_as_object(each, states[number]) for number, each in every.items()], indent=1))
        return 0
    if not every:
        tell("the queue is empty" if not states else f"no entry is {' or '.join(given.state)}")
        return 0
    shown = list(every) if given.all else list(every)[-SHOWN:]
    _table([(states[number], every[number]) for number in shown])
    for number in shown:
        if why := every[number].why:
            tell(f"{number}: {why}")
    if begun := [number for number in shown if isinstance(one := every[number], Entry) and one.starts]:
        tell(f"logs: {entries.file(begun[-1], 'log')}{' and so on' if len(begun) > 1 else ''}")
    if len(shown) < len(every):
        tell(f"{len(every) - len(shown):,} earlier entries are not shown; --all shows them")
    return 0


def _table(rows: Sequence[tuple[str, Entry | Damaged]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(box=SIMPLE_HEAD)
    for heading in ("number", "state", "command", "run", "status", "started", "ended"):
        grid.add_column(heading, justify="right" if heading in ("number", "status") else "left", overflow="fold")
    for state, entry in rows:
        if isinstance(entry, Damaged):
            grid.add_row(str(entry.number), state)
            continue
        status = "" if entry.status is None else str(entry.status)
        words = command(entry).removeprefix("python -m experiments.")
        times = [text[5:].replace("T", " ") for text in (entry.started, entry.ended)]
        grid.add_row(str(entry.number), state, words, outcome.run_of(entry), status, *times)
    console().print(grid, highlight=False)


def _as_object(entry: Entry | Damaged, state: str) -> Mapping[str, object]:
    if isinstance(entry, Damaged):
        return {"number": entry.number, "state": state, "why": entry.why}
    more = {"state": state, "run": outcome.run_of(entry), "command": command(entry), "log": str(entry.log)}
    return entry.model_dump() | more | {"process": entries.process_of(entry.number) if entry.starts else None}


def retry(words: Sequence[str]) -> int:
    """labbook queue retry N ...: put entries back into the queue: failed, skipped, stopped, held or removed ones.

    An entry resumes its run, with the present code, and what was skipped because of it waits again.
    """
    parser = VerbParser("queue retry", inspect.getdoc(retry))
    parser.add_argument("numbers", nargs="+", type=_positive, metavar="N", help="numbers of entries")
    parser.add_argument("--new", action="store_true", help="begin a new run, also of an entry that has finished")
    given = parser.parse_args(list(words))
    wrong: list[str] = []
    import_data()
    for number in given.numbers:
        one = entries.get(number)
        try:
            if one.state == "finished" and not given.new:
                raise UserError(["it has finished; --new begins another run"])
            _refuse_live(one)
            from core.cli.launch import checked

            package_of(one.name)
            if not (one.starts and one.words[1:2] == ["resume"]):
                checked(one.name, one.words[1:])
        except UserError as mistakes:
            wrong += [f"{number}: {line}" for line in mistakes.lines]
    if wrong:
        raise UserError(wrong)
    importlib.import_module("core.runs.seeds")
    key = code.keep()
    with entries.changing():
        for number in given.numbers:
            one = entries.get(number)
            _refuse_live(one)
            fresh = {"invocation": entries.new_invocation(number), "run": "", "starts": 0} if given.new else {}
            entries.write(one.but(state="waiting", why="", code=key, job="", ended="", **fresh))
            tell(f"{number} waits: {command(one)}")
            for other in entries.followers(number, entries.read().values()):
                if other.state == "skipped":
                    entries.write(other.but(state="waiting", why=""))
                    tell(f"{other.number} waits again for {few(map(str, other.after))}: {command(other)}")
    return 0


def rm(words: Sequence[str]) -> int:
    """labbook queue rm N ...: take entries out of the queue; their runs stay on record, and retry puts them back."""
    parser = VerbParser("queue rm", inspect.getdoc(rm))
    parser.add_argument("numbers", nargs="+", type=_positive, metavar="N", help="numbers of entries")
    given = parser.parse_args(list(words))
    with entries.changing():
        every = entries.read()
        wrong = []
        for number in given.numbers:
            try:
                if not isinstance(every.get(number), Damaged):
                    _refuse_live(entries.get(number))
                after = [
                    each.number
                    for each in entries.followers(number, every.values())
                    if each.state in ("waiting", "changed") and each.number not in given.numbers
                ]
                if after:
                    raise UserError([f"{number}: entries wait for it: {few(map(str, after))}; name them, too"])
            except UserError as mistakes:
                wrong += mistakes.lines
        if wrong:
            raise UserError(wrong)
        for number in dict.fromkeys(given.numbers):
            found = every[number]
            if isinstance(found, Damaged):
                kept = entries.file(number, "damaged")
                entries.file(number).rename(kept)
                tell(f"{number} is removed; the damaged file is now {kept}")
            else:
                entries.write(found.but(state="removed"))
                tell(f"{number} is removed: {command(found)}")
    return 0


def _refuse_live(entry: Entry) -> None:
    """Raise UserError if a process trains an entry, or is about to."""
    if entry.state == "running" and entries.is_live(entry.number):
        pid = entries.process_of(entry.number)
        advice = f"to make it save and stop: kill {pid} on {entry.host}" if pid else "try again in a few seconds"
        raise UserError([f"{entry.number}: this entry is running; {advice}"])


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        import argparse

        raise argparse.ArgumentTypeError(f"should be a positive integer (got {text})")
    return int(text)


VERBS: Mapping[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "add": (add, "add a command line, or a grid of them"),
    "list": (show_list, "the entries: state, command, run, exit status, times, log"),
    "run": (run, "run the entries, one on each GPU, and resume what was interrupted"),
    "retry": (retry, "put entries that failed, or are held, back into the queue"),
    "submit": (submit, "hand waiting entries to Slurm, as one job array"),
    "rm": (rm, "take entries out of the queue"),
}
