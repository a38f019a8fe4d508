"""Layout of help: a text, followed by groups of rows; in color on a terminal, otherwise plain."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from core.common.terminal import is_terminal, tell

WIDTH = 100  # columns at most
WIDEST_LEFT = 34  # columns; the meaning of a longer name and value begins on the next line
Segment = tuple[str, str]  # text, style of rich


@dataclass(frozen=True)
class Row:
    """A name (a verb, an option), its value, and what it means."""

    name: str
    value: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Group:
    """Rows below a title."""

    title: str
    rows: tuple[Row, ...]


def show(text: str, groups: Iterable[Group]) -> None:
    """Print a text and, below it, groups of rows."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    page = [*([(line, "")] for line in _filled(text, width)), *lines(groups, max(width, 60))]
    if not is_terminal():
        for line in page:
            tell("".join(part for part, _ in line))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in page:
        console.print(Text.assemble(*line), soft_wrap=True)


def lines(groups: Iterable[Group], width: int) -> Iterator[list[Segment]]:
    """Yield each line as segments (text, style); it has at most `width` columns, unless a single word is longer."""
    for group in groups:
        if not group.rows:
            continue
        yield []
        yield [(part, "bold") for part in textwrap.wrap(group.title, width)[:1]]
        left = min(WIDEST_LEFT, max(len(f"{row.name} {row.value}".strip()) for row in group.rows))
        for row in group.rows:
            yield from _lines(row, left, width)


def _filled(text: str, width: int) -> Iterator[str]:
    """Wrap paragraphs. Indented lines are commands; if one is too long, its explanation moves to the next line."""
    for number, paragraph in enumerate(text.strip().split("\n\n")):
        yield from [""] if number else []
        if not any(line.startswith(" ") for line in paragraph.splitlines()):
            yield from textwrap.wrap(paragraph, width, break_on_hyphens=False)
            continue
        for line in paragraph.splitlines():
            command, gap, meaning = re.match(r"( *\S.*?)(?:(   *)(\S.*))?$", line.rstrip()).groups()  # type: ignore[union-attr]
            yield from [line] if len(line) <= width or not gap else [command, f"{'':8}{meaning}"]


def _lines(row: Row, left: int, width: int) -> Iterator[list[Segment]]:
    space = " " if row.value else ""
    head: list[Segment] = [("  ", ""), (row.name, "bold cyan"), (space + row.value, "green")]
    taken = len(row.name + space + row.value)
    wrapped = textwrap.wrap(row.meaning, width - left - 4, break_long_words=False, break_on_hyphens=False)
    if taken <= left and wrapped:
        yield [*head, (" " * (left - taken + 2) + wrapped.pop(0), "")]
    else:
        yield head
    for line in wrapped:
        yield [(" " * (left + 4) + line, "")]
