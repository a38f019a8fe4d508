"""labbook predict RUN ... PATH ...: the classes of new images, from the network of a run, or the mean of several.

RUN may also be the parent of several seeds or folds, which stands for its finished runs. PATH is an image, a folder, a
tar or zip, an HDF5 file, a table with a column of paths, or - for a list of paths on standard input. Images are read as
those of the run: its size, crop, conversion and normalization, with its test-time augmentation; --data.max_megapixels
raises the limit of their size. The result is printed as CSV, or written with --to; interrupted, the same command with
--to continues where it stopped. The exit status is 1 if an image could not be read: its row has the reason.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import complain, tell
from core.common.text import few
from core.declare.changes import changed
from core.inference.network import DTYPES
from core.runs.members import members
from core.runs.trained import Run
from core.training.runtime import keep_freed_memory
from data.folder import ImageFiles, ImageFolder
from data.hdf5 import Hdf5
from data.kinds import divided
from data.predict import sheet
from data.predict.asked import Asked
from data.predict.conversion import frame_of
from data.predict.inputs import Reading, has_files, refuse_missing
from data.predict.results import Kept, Row, show
from data.reading.disk import refuse_sheet
from data.reading.progress import bar, printable
from data.table import ImageTable

OPTIONS = ("max_megapixels", "images")  # of the data set, which do not change what an image looks like
LONGEST = 200  # bytes of the name of a folder


def main(words: Sequence[str]) -> int:
    """Exit status 0, or 1 if an image could not be read. Raises UserError."""
    parser = VerbParser("predict", __doc__)
    parser.add_argument(
        "what", nargs="+", metavar="RUN|PATH", help="runs or their parent, then images, folders, archives or tables"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="write a .csv, .parquet or .jsonl file")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="list the K most probable classes")
    parser.add_argument(
        "--threshold", type=float, default=0.0, metavar="P", help="no class for an image whose probability is lower"
    )
    parser.add_argument(
        "--sort-into", type=Path, metavar="DIR", help="also make a folder of links to the images of each class"
    )
    parser.add_argument(
        "--path-column", metavar="NAME", help="column of a table with the paths; default: that of the run, or path"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or mps; auto: the fastest one available")
    parser.add_argument("--precision", choices=tuple(DTYPES), help="convert the network; default: that of training")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="also write a PNG of the images whose class is least certain"
    )
    rest, options = divided(words)
    given = parser.parse_args(rest)
    runs, places = _divided(given.what)
    if not 0 <= given.threshold <= 1 or given.top < 1:
        raise UserError(["--threshold must be between 0 and 1, and --top at least 1"])
    for option, value in (("--sort-into", given.sort_into), ("--sheet", given.sheet)):
        if value and not given.to:
            raise UserError([f"{option} needs --to FILE, so that an interrupted prediction can be continued"])
    refuse_missing(places)
    if given.sheet:
        refuse_sheet(given.sheet, map(Path, places))
    _refuse_labels(given, runs[0])
    reading, *others = (_reading(run, given.path_column, options) for run in runs)
    alike = [(other.frame, other.how) == (reading.frame, reading.how) for other in others]
    if not all(alike):
        other = runs[1 + alike.index(False)].id
        raise UserError([f"{runs[0].id} and {other} convert pixels differently; they cannot answer together"])
    asked = Asked(runs, given.top, given.threshold, given.device, reading, given.precision)
    keep_freed_memory()
    if given.to is None:
        return int(show(asked.rows(places, {}), asked.names) > 0)
    question = {"runs": [run.id for run in runs], "top": given.top, "threshold": given.threshold, "of": list(places)}
    question |= {"data": options} if options else {}
    question |= {"precision": given.precision} if given.precision else {}
    if given.sort_into:
        _refuse_folders(given.sort_into, asked.classes)
        if packed := [place for place in places if not has_files(place)]:
            raise UserError([f"--sort-into: the images of {printable(packed[0])} are no files of their own; unpack it"])
    try:
        with Kept(given.to, question) as kept:
            if kept.done:
                complain(f"continuing after {kept.done.total():,} images")
            with bar("predicting", None, "images") as advance:
                for rows in asked.rows(places, kept.done):
                    kept.add(rows)
                    advance(len(rows))
            if given.sort_into:
                _sort(kept.rows(), given.sort_into)
            if given.sheet:
                sheet.write(kept.rows(), places, asked.reading, given.sheet)
            kept.finish(asked.names)
    except OSError as error:
        where = error.filename or given.to
        raise UserError([f"{where}: {error.strerror or error}; the same command continues where it stopped"]) from None
    more = [f"pictures of the least certain in {given.sheet}"] if given.sheet else []
    more += [f"links by class in {given.sort_into}"] if given.sort_into else []
    tell("; ".join([f"written: {kept.count:,} images to {given.to}", *more]))
    if kept.failed:
        complain(f"{kept.failed:,} images could not be read; their rows have the reason")
    return int(kept.failed > 0)


def _refuse_labels(given: Namespace, run: Run) -> None:
    """Raises UserError for options that need one class for each image."""
    if given.sort_into or given.sheet:
        run.refuse_tasks("--sort-into and --sheet do")
    if given.top > 1:
        run.refuse_tasks("--top does")
    if given.sort_into and run.multi_label:
        raise UserError(["--sort-into needs one class for each image, and these runs are multi-label"])


def _divided(words: Sequence[str]) -> tuple[list[Run], list[str]]:
    """(the runs, the places of images). Raises UserError."""
    runs: list[Run] = []
    for number, word in enumerate(words):
        if word == "-" or (runs and Path(word).exists() and not (Path(word) / "journal.jsonl").exists()):
            return runs, list(words[number:])
        if runs and os.sep in word:
            raise UserError([f"{word}: no such file or folder"])
        runs += members([word])
    raise UserError(["predict: no images are given; name files, folders, archives or tables after the runs"])


def _reading(run: Run, column: str | None, options: Mapping[str, str]) -> Reading:
    """How images are read: as those of the run, but options may raise the limit of their size. Raises UserError."""
    if strange := [name for name in options if name not in OPTIONS]:
        known = ", ".join(f"--data.{name}" for name in OPTIONS)
        raise UserError([f"--data.{strange[0]}: images are read as those of the run; only {known} can be given"])
    own = run.experiment.data
    size = {name: value for name, value in options.items() if name == "max_megapixels"}
    data = changed(own if isinstance(own, ImageFiles) else ImageFolder(), size, "option", "--data.")
    column = column or (own.path_column if isinstance(own, ImageTable) else "path")
    dataset = options.get("images") or (own.images if isinstance(own, Hdf5) else "images")
    return Reading(frame_of(run), data.conversion, column, dataset)


def _refuse_folders(folder: Path, classes: Sequence[str]) -> None:
    """Raises UserError if a class cannot be the name of a folder, or if the folder of a class is a link."""
    if folder.exists() and not folder.is_dir():
        raise UserError([f"--sort-into {folder} is not a folder"])
    odd = [name for name in classes if name in ("", ".", "..") or "/" in name or not name.isprintable()
           or len(os.fsencode(name)) > LONGEST]  # fmt: skip
    if odd:
        raise UserError([f"--sort-into: these classes cannot be names of folders: {few(odd)}"])
    if links := [name for name in classes if (folder / name).is_symlink()]:
        raise UserError([f"--sort-into {folder / links[0]} is a link; remove it, or choose another folder"])


def _sort(rows: Iterator[Row], folder: Path) -> None:
    """Make a link to each image in the folder of its class. Raises UserError for images that are in shards."""
    for row in rows:
        if not row.get("class"):
            continue
        source = Path(row["path"]).absolute()
        if not source.is_file():
            raise UserError([f"--sort-into: {row['path']} is no file of its own; unpack the archive"])
        home = folder / row["class"]
        home.mkdir(parents=True, exist_ok=True)
        link = home / source.name
        number = 1
        while os.path.lexists(link) and os.path.realpath(link) != os.path.realpath(source):
            number += 1
            link = home / f"{source.stem}_{number}{source.suffix}"
        if not os.path.lexists(link):
            link.symlink_to(source)
