"""labbook check PATH: inspect your own images before training on them. Nothing is changed.

PATH is what training gets as --root: a folder, tar or zip of class folders (ImageFolder), a table (ImageTable), a
folder of tar shards (WebShards), an HDF5 file, or a saved Hugging Face dataset. The exit status is 1 if there are
errors: images that cannot be read, a layout that the data set rejects, links that point outside the folder, classes
with too few images for the splits, an image in two splits or two classes, near-duplicates across splits. It is 0 if
there are only warnings: imbalanced classes, near-duplicates within a split, names that clash on other systems, images
of a single color, labels that a trained network disagrees with. It is 2 if PATH cannot be inspected, such as a damaged
or unsafe archive, or an option is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.common.arguments import VerbParser
from core.common.errors import DataError, UserError
from core.common.terminal import tell
from core.engines.engine import Engine
from core.engines.opening import add_engine, opened
from data.check import sheet
from data.check.findings import Inspection, counted, findings, graded
from data.check.labels import Judge, opinion
from data.check.pairs import near, same
from data.check.render import doubts, show
from data.check.survey import survey
from data.folder import ImageFiles
from data.kinds import declared, divided, kind_of
from data.reading.disk import refuse_sheet
from data.reading.progress import say


def main(words: Sequence[str]) -> int:
    """Exit status 0, or 1 if there are errors in the images. Raises UserError."""
    parser = VerbParser("check", __doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="a folder, tar, zip, table or HDF5 file")
    parser.add_argument(
        "--run",
        metavar="RUN",
        help="also list labels that the network of this run disagrees with; of the parent of folds (train --folds 5), "
        "each image is judged by a network that was not trained on it",
    )
    parser.add_argument(
        "--device", default="auto", help="device for --run: cpu, cuda, cuda:1, mps; auto: the best one available"
    )
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE",
        help="write a PNG with images of each class, duplicates and suspect labels",
    )
    parser.add_argument("--all", action="store_true", help="list all file names, also for warnings and notes")
    parser.add_argument(
        "--data",
        metavar="CLASS",
        help="how PATH is read, with options --data.NAME; default: by what it looks like",
    )
    add_engine(parser, None)
    rest, options = divided(words)
    given = parser.parse_args(rest)
    if given.sheet:
        refuse_sheet(given.sheet, [given.path])
    judge = Judge.named(given.run) if given.run else None
    data = declared(given.data or kind_of(given.path), options)
    if given.engine:
        with opened(given.engine, given.workers, given.scheduler) as engine:
            found = inspect(given.path, data, engine)
    elif given.workers is not None or given.scheduler:
        raise UserError(["--workers, --scheduler: add --engine local, dask or ray; without it, threads are used"])
    else:
        found = inspect(given.path, data)
    said = opinion(found, judge, given.device) if judge else None
    every = graded([*findings(found), *(doubts(said, found.tree.names) if said else ())])
    show(found, every, given.all)
    if given.sheet:
        try:
            sheet.write(found, said, given.sheet)
        except OSError as error:
            raise UserError([f"--sheet {given.sheet}: {error.strerror or error}"]) from None
        tell(f"written: {given.sheet}")
    return int(any(finding.grade == "error" for finding in every))


def inspect(path: Path, data: ImageFiles, engine: Engine | None = None) -> Inspection:
    """Inspect the images that a data set would read.  engine: does the work; None: threads. Raises DataError if they
    cannot be listed or opened."""
    refused: dict[str, None] = {}  # ordered and unique, because the folder is traversed twice

    def refuse(error: DataError) -> None:
        refused.update(dict.fromkeys(error.lines))

    listing = data.listed(path, refuse)
    seen = survey(listing, data.conversion, engine)
    refused.update(dict.fromkeys(listing.refused))
    say("searching for near-duplicates")
    alike = near(seen, [split for split, _ in listing.places], engine=engine)
    return Inspection(
        listing, data.conversion, tuple(refused), seen, tuple(same(seen)), alike, counted(listing.places, seen)
    )
