"""labbook flips A B: which images B gets right that A gets wrong, and the other way round.

A and B are finished runs, or parents of several seeds. Images are paired by their content, so that the runs may have
been trained on different splits. For two single runs, the exact McNemar test says whether B repairs more images than it
breaks; it does not account for the seed. For several seeds, an image counts for B if more of B's seeds are right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.cli.metric import tested_runs
from core.common.arguments import VerbParser
from core.common.terminal import console, tell
from core.inference.answers import read
from core.inference.flips import Flips, flips

MOST_CLASSES, MOST_IMAGES = 30, 10  # listed


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("flips", __doc__)
    parser.add_argument("a", metavar="A", help="finished run, or parent of several seeds")
    parser.add_argument("b", metavar="B", help="the run or parent to compare it with")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="split of the data")
    given = parser.parse_args(list(words))
    before, after = ([read(run, given.split) for run in tested_runs(name)] for name in (given.a, given.b))
    found = flips(before, after)
    _show(found, len(before), len(after), given.split)
    return 0


def _show(found: Flips, before: int, after: int, split: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    repaired, broken = int(found.repaired.sum()), int(found.broken.sum())
    tell(
        f"{len(found.ids):,} {split} images that all runs answered"
        + f"; {found.left_out:,} others" * bool(found.left_out)
    )
    tell(f"A: {found.before.mean():.2%} right (runs: {before})   B: {found.after.mean():.2%} right (runs: {after})")
    tell(f"B repairs {repaired:,} images and breaks {broken:,}")
    if before == after == 1:
        tell(f"exact McNemar test: p = {found.p_value():.2g}; it does not account for the seed of the training")
    counts = np.stack([np.bincount(found.targets[mask], minlength=len(found.classes)) for mask in
                       (np.ones(len(found.ids), bool), found.repaired, found.broken)])  # fmt: skip
    order = [label for label in np.argsort(-(counts[1] + counts[2]), kind="stable") if counts[1:, label].any()]
    if not order:
        return
    grid = Table(box=SIMPLE_HEAD)
    for name in ("class", "images", "repaired", "broken"):
        grid.add_column(name, justify="left" if name == "class" else "right")
    for label in order[:MOST_CLASSES]:
        grid.add_row(found.classes[label], *(f"{count:,}" for count in counts[:, label]))
    console().print(grid)
    change = found.after - found.before
    for what, gain in (("repaired", change), ("broken", -change)):
        most = [at for at in np.argsort(-gain, kind="stable")[:MOST_IMAGES] if gain[at] > 0]
        if most:
            tell(f"{what}, by id in the answers: {', '.join(found.ids[most])}")
