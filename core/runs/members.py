"""The runs that answer together: which ones a name stands for, and whether they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.common.errors import UserError
from core.record.run import IMPORTED, holds_others
from core.runs.trained import Run, load

# field, in words
SAME = (("classes", "classes"), ("image_shape", "image sizes"), ("multi_label", "kinds of labels"), ("tasks", "tasks"))


def members(names: Sequence[str]) -> list[Run]:
    """The finished runs that names stand for, each once: a run, or the finished runs below a parent.

    Raises UserError, with a line for each name that stands for no finished run with a network.
    """
    found: dict[str, Run] = {}
    wrong = []
    for name in names:
        try:
            found |= {run.id: run for run in _of(load(name))}
        except UserError as mistakes:
            wrong += mistakes.lines
    if wrong:
        raise UserError(wrong)
    return list(found.values())


def _of(run: Run) -> Iterator[Run]:
    if not holds_others(run.record):
        _refuse_unfit(run)
        yield run
        return
    if "study" in run.record:
        raise UserError([f"{run.id} is a study; name a run, or the parent of seeds or folds"])
    finished = [one for one in run.children() if one.status == "FINISHED"]
    if not finished:
        raise UserError([f"{run.id}: none of its runs has finished"])
    yield from reversed(finished)  # the earliest first


def _refuse_unfit(run: Run) -> None:
    if IMPORTED in run.record:
        raise UserError([f"{run.id} was imported: it has no declaration, and so no network"])
    if run.status != "FINISHED":
        raise UserError([f"{run.id} is {run.status}; name finished runs"])


def refuse_different(runs: Sequence[Run], data: bool = False) -> None:
    """Raises UserError if runs cannot answer together: their classes, image sizes or kinds of labels differ. data:
    also if they were trained on other images."""
    first, *others = runs
    facts = (*SAME, ("digest", "data")) if data else SAME
    for other in others:
        one, two = first.record["data"], other.record["data"]
        for fact, name in facts:
            if one.get(fact) == two.get(fact):
                continue
            if fact == "classes" and sorted(one[fact]) == sorted(two[fact]):
                name = "orders of the classes"
            raise UserError([f"{first.id} and {other.id} have different {name}; they cannot answer together"])
