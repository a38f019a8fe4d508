"""`labbook VERB ...` and `python -m experiments.NAME [VERB] ...`: both end in core/cli/VERB.py.

Exit statuses: 0; 1 after a failure, or if something is left to do; 2 for an error of the user; 128 + signal.
"""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from core.catalogue import experiments
from core.cli.exits import explain
from core.cli.verbs import OF_AN_EXPERIMENT, OF_RUNS, OTHERS, TRAINING, VERBS
from core.common.errors import UserError
from core.common.files import NO_ROOM
from core.common.layout import Group, Row, show
from core.common.ranks import ranks_here
from core.common.signals import end_with_parent
from core.common.terminal import mute
from core.common.text import suggestion

HELP_WORDS = ("-h", "--help")


def labbook() -> NoReturn:
    """The command `labbook`, and `python -m core`."""
    words = sys.argv[1:]
    if words and words[0] not in (*HELP_WORDS, "help"):
        sys.exit(run(words[0], words[1:], VERBS))
    groups = {
        "Experiments: labbook VERB EXPERIMENT, or python -m experiments.EXPERIMENT [VERB]": OF_AN_EXPERIMENT,
        "Runs: labbook VERB RUN": OF_RUNS,
        "Repository and data: labbook VERB": OTHERS,
    }
    _show("usage: labbook VERB ...\n\nlabbook VERB --help shows the options of a verb.", groups)
    sys.exit(0 if words else 2)


def experiment(package: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """The command line of every experiment: `python -m experiments.NAME [VERB]`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # field=value, as in Hydra, is not a verb: it is reported as a misspelled option
    verb = words.pop(0) if words and not words[0].startswith("-") and "=" not in words[0] else "train"
    verb, words = ("train", ["--help", *words]) if verb == "help" else (verb, words)
    sys.exit(run(verb, [package, *words], OF_AN_EXPERIMENT))


def run(verb: str, words: Sequence[str], known: Mapping[str, str]) -> int:
    """Run a verb. Returns the exit status."""
    if ranks_here().rank:  # of several processes, only rank 0 prints
        mute()
    end_with_parent()
    verb = verb.replace("-", "_")
    try:
        if verb not in known:
            raise UserError([f"{verb}: unknown verb{_hint(verb, known)}"])
        if verb in OF_AN_EXPERIMENT and words[:1] in (["-h"], ["--help"]):
            usage = f"usage: labbook {verb} EXPERIMENT [--option value ...]"
            more = f"labbook {verb} EXPERIMENT --help shows the options. Experiments: {', '.join(experiments())}."
            _show(f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.\n\n{usage}\n\n{more}", {})
            return 0
        name = f"{verb}_" if keyword.iskeyword(verb) else verb
        status: int = importlib.import_module(f"core.cli.{name}").main(words)
        if sys.stdout is not None:  # None if it was closed before the start
            sys.stdout.flush()
        return status
    except UserError as mistakes:
        title = f"labbook {verb}" if verb in known else "labbook"
        return explain(title, mistakes, started=verb in known and verb not in TRAINING)
    except BrokenPipeError:
        mute()
        return 0
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return explain(f"labbook {verb}", UserError([f"{where}{error.strerror}"]), started=True)
    except KeyboardInterrupt:
        return 130


def _hint(verb: str, known: Mapping[str, str]) -> str:
    if verb in VERBS:
        return f"; use labbook {verb}"
    if verb in experiments():
        return f", but an experiment; to train it: labbook train {verb}"
    return suggestion(verb, known)


def _show(text: str, groups: Mapping[str, Mapping[str, str]]) -> None:
    show(text, [Group(title, tuple(Row(*row) for row in _rows(verbs))) for title, verbs in groups.items()])


def _rows(verbs: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield (verb, its arguments, meaning)."""
    for verb, text in verbs.items():
        arguments, colon, meaning = text.partition(": ")
        yield (verb, arguments, meaning) if colon and arguments[:1] in "[RP" else (verb, "", text)
