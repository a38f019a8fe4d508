"""labbook flips A B: which images B gets right that A gets wrong, and the other way round.

A and B are finished runs, or parents of several seeds. Images are paired by their content, so that the runs may have
been trained on different splits. For two single runs, the exact McNemar test says whether B repairs more images than it
breaks; it does not account for the seed. For several seeds, an image counts for B if more of B's seeds are right.
--sheet FILE.png saves pictures of the images that changed most, which are read from the data of A.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.cli.metric import tested_runs
from core.common import plots
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import console, tell
from core.inference.answers import read
from core.inference.flips import Flips, flips
from core.inference.paired import pictures
from core.metrics.answers import Answers
from core.runs.trained import Run, load

MOST_CLASSES, MOST_IMAGES = 30, 10  # listed
MOST_PICTURES = 24  # of repaired images, and of broken ones


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("flips", __doc__)
    parser.add_argument("a", metavar="A", help="finished run, or parent of several seeds")
    parser.add_argument("b", metavar="B", help="the run or parent to compare it with")
    parser.add_argument("--split", default="test", choices=("val", "test"), help="split of the data")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="save pictures of the images that changed most")
    parser.add_argument("--root", type=Path, help="folder of the data of A, if it has moved since training")
    given = parser.parse_args(list(words))
    if given.sheet and given.sheet.suffix != ".png":
        raise UserError([f"--sheet {given.sheet}: should end in .png"])
    runs = [tested_runs(name) for name in (given.a, given.b)]
    before, after = ([read(run, given.split) for run in each] for each in runs)
    found = flips(before, after)
    _show(found, len(before), len(after), given.split)
    if given.sheet:
        _save(found, load(runs[0][0].id), before[0], given.root, given.sheet)
    return 0


def _save(found: Flips, run: Run, answers: Answers, root: Path | None, path: Path) -> None:
    """Save a sheet of the repaired images, then the broken ones. Raises UserError."""
    change = found.after - found.before
    repaired, broken = found.most(change, MOST_PICTURES), found.most(-change, MOST_PICTURES)
    if not len(repaired) + len(broken):
        tell("no image is repaired or broken, so there is no sheet")
        return
    names = found.classes
    titles = [f"repaired: {names[found.targets[at]]}, was {names[found.said_before[at]]}" for at in repaired]
    empty = -len(repaired) % plots.COLUMNS if len(broken) else 0  # broken images begin a row
    titles += [""] * empty
    titles += [f"broken: {names[found.targets[at]]}, now {names[found.said_after[at]]}" for at in broken]
    images = getattr(run.own_splits(root), answers.split)
    pixels = pictures(images, answers, found.places[np.concatenate([repaired, broken])])
    nothing = np.full((empty, *pixels.shape[1:]), 255, np.uint8)
    try:
        plots.contact_sheet(np.insert(pixels, [len(repaired)] * empty, nothing, axis=0), titles, path)
    except OSError as error:
        raise UserError([f"--sheet {path}: {error.strerror or error}"]) from None
    tell(f"pictures of {len(repaired)} repaired and {len(broken)} broken images: {path}")


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
        if len(most := found.most(gain, MOST_IMAGES)):
            tell(f"{what}, by id in the answers: {', '.join(found.ids[most])}")
