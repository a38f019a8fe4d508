"""labbook predict RUN ... PATH ...: the classes of new images, from the network of a run, or the mean of several.

PATH is an image, a folder, a tar or zip, a table with a column of paths, or - for a list of paths on standard input.
Images are read as those of the run: its size, crop, conversion and normalization, with its test-time augmentation. The
result is printed as CSV, or written with --to; interrupted, the same command with --to continues where it stopped. The
exit status is 1 if an image could not be read: its row has the reason.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import complain, tell
from core.inference.network import Network, network_of
from core.runs.trained import Run, load
from data.folder import ImageFiles
from data.predict.inputs import Image, images, refuse_missing
from data.predict.labeled import refuse_different
from data.predict.results import Kept, Row, show
from data.reading.decode import AS_DECLARED, Conversion, with_channels
from data.reading.progress import bar, printable
from data.table import ImageTable

LONGEST = 200  # bytes of the name of a folder


def main(words: Sequence[str]) -> int:
    """Exit status 0, or 1 if an image could not be read. Raises UserError."""
    parser = VerbParser("predict", __doc__)
    parser.add_argument("what", nargs="+", metavar="RUN|PATH", help="runs, then images, folders, archives or tables")
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
    given = parser.parse_args(list(words))
    runs, places = _divided(given.what)
    if not 0 <= given.threshold <= 1 or given.top < 1:
        raise UserError(["--threshold must be between 0 and 1, and --top at least 1"])
    if given.sort_into and not given.to:
        raise UserError(["--sort-into needs --to FILE, so that an interrupted prediction can be continued"])
    refuse_missing(places)
    if given.sort_into and runs[0].multi_label:
        raise UserError(["--sort-into needs one class for each image, and these runs are multi-label"])
    asked = Asked(runs, given.top, given.threshold, given.device, given.path_column)
    if given.to is None:
        return int(show(asked.rows(places, {}), asked.names) > 0)
    question = {"runs": [run.id for run in runs], "top": given.top, "threshold": given.threshold, "of": list(places)}
    if given.sort_into:
        _refuse_folders(given.sort_into, asked.classes)
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
            kept.finish(asked.names)
    except OSError as error:
        where = error.filename or given.to
        raise UserError([f"{where}: {error.strerror or error}; the same command continues where it stopped"]) from None
    tell(f"written: {given.to}")
    if kept.failed:
        complain(f"{kept.failed:,} images could not be read; their rows have the reason")
    return int(kept.failed > 0)


def _divided(words: Sequence[str]) -> tuple[list[Run], list[str]]:
    """(the runs, the places of images). Raises UserError."""
    runs: list[Run] = []
    for number, word in enumerate(words):
        if word == "-" or (runs and Path(word).exists() and not (Path(word) / "journal.jsonl").exists()):
            return runs, list(words[number:])
        if runs and os.sep in word:
            raise UserError([f"{word}: no such file or folder"])
        runs.append(load(word))
    raise UserError(["predict: no images are given; name files, folders, archives or tables after the runs"])


class Asked:
    """What is asked of the runs."""

    def __init__(self, runs: Sequence[Run], top: int, threshold: float, device: str, column: str | None):
        first = runs[0]
        self.classes = list(first.record["data"]["classes"])
        for other in runs[1:]:
            refuse_different(first, other)
        self.several = first.multi_label
        self.top, self.threshold = min(top, len(self.classes)), threshold
        self.ends = ["", *(f"_{rank}" for rank in range(2, self.top + 1))]  # of the names of columns
        height, width, self.channels = first.record["data"]["image_shape"]
        if height != width:
            raise UserError([f"{first.id} expects images of {width} x {height}; only square images are supported"])
        self.size: int = height
        self.how = _conversion(first)
        declared = first.experiment.data
        self.column = column or (declared.path_column if isinstance(declared, ImageTable) else "path")
        self.networks: list[Network] = [network_of(run, device) for run in runs]

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        if self.several:
            return ["path", "labels", *(f"probability of {name}" for name in self.classes), "error"]
        return ["path", *(f"{name}{end}" for end in self.ends for name in ("class", "probability")), "error"]

    def rows(self, places: Sequence[str], done: Mapping[str, int]) -> Iterator[list[Row]]:
        """The rows of all images that are not done, in batches: while the networks answer for one in a thread, the next
        is decoded."""
        with ThreadPoolExecutor(1, thread_name_prefix="predict") as answering:
            before: Future[list[Row]] | None = None
            each = itertools.chain.from_iterable(images(places, self.column, self.size, self.how, done))
            while batch := list(itertools.islice(each, self.networks[0].chunk)):
                now = answering.submit(self._answered, batch)
                if before:
                    yield before.result()
                before = now
            if before:
                yield before.result()

    def _answered(self, some: Sequence[Image]) -> list[Row]:
        readable = [image.pixels for image in some if image.pixels is not None]
        answers = iter(self._rows(self._probabilities(np.stack(readable))) if readable else ())
        return [
            {"path": image.path, "error": image.reason}
            if image.pixels is None
            else {"path": image.path} | next(answers)
            for image in some
        ]

    def _probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """The mean probabilities over the runs, float32 [N, C]."""
        pixels = with_channels(pixels, self.channels)
        each = [network.task.probabilities(network.logits(pixels)).numpy() for network in self.networks]
        mean: np.ndarray = np.mean(each, axis=0)
        return mean

    def _rows(self, probabilities: np.ndarray) -> Iterator[Row]:
        """What the probabilities of each image, float32 [N, C], say."""
        rounded = np.round(probabilities.astype(float), 6)
        if self.several:
            for values in rounded.tolist():
                each = dict(zip(self.classes, values, strict=True))
                said = [name for name, value in each.items() if value >= (self.threshold or 0.5)]
                yield {"labels": "|".join(said)} | {f"probability of {name}": value for name, value in each.items()}
            return
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top]
        for places, values in zip(order.tolist(), np.take_along_axis(rounded, order, axis=1).tolist(), strict=True):
            row: Row = {}
            for end, place, value in zip(self.ends, places, values, strict=True):
                row[f"class{end}"], row[f"probability{end}"] = self.classes[place], value
            if row["probability"] < self.threshold:
                row["class"] = ""
            yield row


def _conversion(run: Run) -> Conversion:
    """How the run's data set converts pixels."""
    data = run.experiment.data
    return data.conversion if isinstance(data, ImageFiles) else AS_DECLARED


def _refuse_folders(folder: Path, classes: Sequence[str]) -> None:
    """Raises UserError if a class cannot be the name of a folder, or if the folder of a class is a link."""
    if folder.exists() and not folder.is_dir():
        raise UserError([f"--sort-into {folder} is not a folder"])
    odd = [name for name in classes if name in ("", ".", "..") or "/" in name or not name.isprintable()
           or len(os.fsencode(name)) > LONGEST]  # fmt: skip
    if odd:
        names = ", ".join(printable(name) for name in odd[:5])
        raise UserError([f"--sort-into: these classes cannot be names of folders: {names}"])
    if links := [name for name in classes if (folder / name).is_symlink()]:
        raise UserError([f"--sort-into {folder / links[0]} is a link; remove it, or choose another folder"])


def _sort(rows: Iterator[Row], folder: Path) -> None:
    """Make a link to each image in the folder of its class. Raises UserError for images that are in archives."""
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
