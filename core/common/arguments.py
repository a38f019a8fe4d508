"""Argument parser for the verbs of labbook that do not take an experiment."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from core.common.errors import UserError
from core.common.layout import Group, Row, show
from core.common.text import did_you_mean

HELP = "show this help"


class VerbParser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError instead of exiting, and prints its help as experiments do."""

    def __init__(self, verb: str, description: str | None):
        text = re.sub(r"\Alabbook [^:]*: ", "", description or "")
        super().__init__(prog=f"labbook {verb}", description=text[:1].upper() + text[1:], add_help=False)
        self.added: list[argparse.Action] = []
        self.add_argument("-h", "--help", action="help", help=HELP)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Same as in argparse, which has no public list of the arguments added."""
        self.added.append(super().add_argument(*names, **options))
        return self.added[-1]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Same as in argparse, but raises UserError, with one line for each unknown word."""
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(self._unknown(word) for word in unknown)
        return given

    def error(self, message: str) -> NoReturn:
        """Raises UserError with argparse's message, worded like the other errors."""
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            verb = "are" if "," in missing else "is"
            raise UserError([f"{missing} {verb} missing; usage: {self.usage_line()}"])
        option, _, what = message.removeprefix("argument ").partition(": ")
        option = option.rpartition("/")[2]
        if found := re.fullmatch(r"invalid (int|float|Path) value: (.*)", what):
            noun = {"int": "an integer", "float": "a number", "Path": "a path"}[found[1]]
            raise UserError([f"{option}: should be {noun} (got {found[2]})"])
        raise UserError([f"{option}: {'needs a value' if what.startswith('expected') else what}"])

    def usage_line(self) -> str:
        """Returns the command with its positional arguments."""
        words = [_placeholder(action) for action in self._positionals_here()]
        return " ".join([self.prog, *words, "[--option value ...]"])

    def print_help(self, file: Any = None) -> None:
        """Print the help on standard output."""
        options = [action for action in self.added if action.option_strings]
        show(
            f"{self.description}\n\nusage: {self.usage_line()}",
            [
                Group("Arguments", tuple(_row(action) for action in self._positionals_here())),
                Group("Options", tuple(_row(action) for action in options)),
            ],
        )

    def _positionals_here(self) -> Iterator[argparse.Action]:
        return (action for action in self.added if not action.option_strings)

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"{word}: unexpected word"
        name = word.partition("=")[0]
        known = [each for action in self.added for each in action.option_strings if each.startswith("--")]
        return f"{name}: unknown option{did_you_mean(name, known)}"


def _placeholder(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest.upper())
    return {"+": f"{name} ...", "*": f"[{name} ...]", "?": f"[{name}]"}.get(str(action.nargs), name)


def _row(action: argparse.Action) -> Row:
    name = action.option_strings[-1] if action.option_strings else _placeholder(action)
    value = _placeholder(action) if action.option_strings and action.nargs != 0 else ""
    default = action.default if action.option_strings else None
    end = "" if default in (None, False, [], argparse.SUPPRESS) else f" (default: {default})"
    return Row(name, value, f"{action.help or ''}{end}")
