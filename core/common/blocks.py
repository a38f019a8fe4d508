"""Blocks: the columns of logits and targets that belong to each of several tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

Blocks = tuple[tuple[str, int], ...]
"""(name of a task, number of its classes) of each task, in the order of the columns; () for a single task."""

T = TypeVar("T")


def spans(blocks: Blocks) -> Iterator[tuple[str, slice]]:
    """Yield (name of a task, its columns)."""
    start = 0
    for name, classes in blocks:
        yield name, slice(start, start + classes)
        start += classes


def of_task(blocks: Blocks, task: str, columns: Sequence[T]) -> tuple[T, ...]:
    """The items of `columns` that belong to a task, such as its classes."""
    return tuple(columns[dict(spans(blocks))[task]])


def qualified(task: str, name: str) -> str:
    """The name of a class of a task among those of all tasks."""
    return f"{task}={name}"


def own_names(blocks: Blocks, task: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes of a task, without its own. classes: of all tasks, as `qualified` names them."""
    return tuple(name.removeprefix(f"{task}=") for name in of_task(blocks, task, classes))


def with_task(file: str, task: str) -> str:
    """The name of a file about one of several tasks: confusion_matrix_color.csv; the file itself without a task."""
    stem, dot, suffix = file.rpartition(".")
    return f"{stem}_{task}{dot}{suffix}" if task else file
