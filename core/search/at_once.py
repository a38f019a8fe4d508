"""--at_once: several trials that a worker trains at once, as one stacked network (core/training/fleet.py)."""

from __future__ import annotations

from collections.abc import Iterator

from core.common.errors import UserError
from core.common.text import listed
from core.search.options import Search
from core.search.space import Choice, Dimension, Float, Space, dimensions
from core.training.assemble import Assembly, prepare
from core.training.fleet import advice, may_differ, refuse_together

OPTION = "--at_once"


def refuse(options: Search, parts: Assembly) -> None:
    """Raise UserError if no two trials can be trained at once. parts: of the declaration, ready to train."""
    if options.pruner == "thaw":
        raise UserError([f"{OPTION}: not together with --pruner thaw, which pauses one trial at a time"])
    if options.folds:
        raise UserError([f"{OPTION}: not together with --folds; each fold has images of its own"])
    other = parts.experiment.but({"seed": parts.experiment.seed + 1})
    refuse_together([parts, prepare(other, parts.launch)], OPTION)


def notes(space: Space, parts: Assembly) -> Iterator[str]:
    """Yield what limits the gain: a network that is too large, and dimensions that keep trials apart."""
    yield from advice(parts, OPTION)
    apart = [name for name, dimension in dimensions(space).items() if not _may_differ(name, dimension)]
    if apart:
        yield f"{OPTION}: trials that differ in {listed(apart)} are trained one after the other"


def _may_differ(name: str, dimension: Dimension) -> bool:
    if isinstance(dimension, Choice):
        numbers = all(isinstance(option, float) for option in dimension.options.values())
    else:
        numbers = isinstance(dimension, Float)
    return may_differ(name.partition(" (")[0], numbers)
