"""Command lines with one mistake in them, generated from a seed, and what the command line says to each."""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import string
from unittest import mock

from core.cli import main as command
from core.declare.tree import choices, names
from core.launch import Launch
from core.options import OWN
from experiments.pictures import EXPERIMENT

PACKAGE = "experiments.pictures"
LETTERS = string.ascii_lowercase + "_."


def refused(seed: int, count: int) -> list[str]:
    """What is wrong with the answers to `count` mistakes: accepted, traced back, or the right spelling not named."""
    random_ = random.Random(seed)
    wrong = []
    for _ in range(count):
        words, named = mistake(random_)
        status, error = answer(words)
        if status != 2:
            wrong.append(f"{words} ended with {status}: {error[-500:]}")
        elif named not in error or "Traceback" in error:
            wrong.append(f"{words}: {named} is not named, or there is a traceback, in {error}")
    return wrong


def answer(words: list[str]) -> tuple[object, str]:
    """(exit status, standard error) of a command line; training is not reached."""
    error = io.StringIO()
    with mock.patch("core.cli.train.train", return_value=0), contextlib.redirect_stderr(error):
        try:
            command.experiment(PACKAGE, words)
        except SystemExit as left:
            return left.code, error.getvalue()
        except Exception as raised:
            return f"{type(raised).__name__}: {raised}", error.getvalue()


def edited(word: str, random_: random.Random) -> str:
    """One insertion, deletion, substitution or transposition."""
    letters, at = LETTERS, random_.randrange(len(word))
    return random_.choice(
        [
            word[:at] + random_.choice(letters) + word[at:],
            word[:at] + word[at + 1 :],
            word[:at] + random_.choice(letters) + word[at + 1 :],
            word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
        ]
    )


def has_other_meaning(wrong: str, right: str, known: list[str]) -> bool:
    """Whether a misspelt name may be meant for another: `seed.` for seed or seeds; `seed.s` for a part of seed."""
    head = wrong.partition(".")[0]
    if wrong in known or (head in known and not right.startswith(f"{head}.")):
        return True
    places = itertools.product(range(len(wrong) + 1), ["", *LETTERS], (0, 1))
    edits = {wrong[:at] + letter + wrong[at + cut :] for at, letter, cut in places}
    return any(name != right for name in edits & {*known})


def mistake(random_: random.Random) -> tuple[list[str], str]:
    """(a command line with one mistake in it, what the message must name)."""
    flat = EXPERIMENT.flat() | Launch().flat()
    known = [*names(EXPERIMENT), *Launch.model_fields, *OWN]
    kind = random_.choice(["key", "key", "class", "type", "range"])
    if kind == "key":
        right = random_.choice(known)
        wrong = edited(right, random_)
        if not wrong or has_other_meaning(wrong, right, known):
            return mistake(random_)
        return [f"--{wrong}", "1"], f"--{right}"
    if kind == "class":
        field = random_.choice(["data", "model", "loss", "optimizer", "schedule", "method"])
        base = type(EXPERIMENT).model_fields[field].annotation
        right = random_.choice(list(choices(base)))
        wrong = edited(right, random_)
        wrong = wrong.replace(".", "")  # what stands before a dot is a module's name
        return ([f"--{field}", wrong], right) if wrong not in choices(base) and wrong else mistake(random_)
    numbers = [name for name, value in flat.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    name = random_.choice([*numbers, "clip_grad_norm", "limit", "workers", "log_every", "threads"])
    if kind == "type":
        return [f"--{name}", random_.choice(["many", "1e", "0,1", "0x1", "1 2", "true-ish", "--"])], f"--{name}"
    return [f"--{name}", random_.choice(["-1", "-0.5", "nan", "inf", "1e400"])], f"--{name}"
