"""The task of an engine: read, check and reduce some images, and leave the result in a folder of its own.

A result is named by a digest of all that it depends on. It is there as a whole or not at all: a command that was killed
does only what is missing, and a task that was run twice does no harm.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import socket
import uuid
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.common.errors import UserError
from core.common.files import place
from core.loading.images import Images
from data.check.survey import THUMB, Content, digest_of, reason_of, thumbnail
from data.reading.decode import FORMATS, Conversion, Unreadable, decoded, fitted
from data.reading.frame import QUALITY, Frame
from data.reading.progress import printable

if TYPE_CHECKING:
    from PIL import Image

VERSION = 1  # to be raised when the same images are reduced to other bytes
IMAGES, BYTES = 1000, 64 << 20  # of a task: the most images, and contents that travel with it
SUFFIXES = (".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".ppm", ".avif", ".jp2")  # of FORMATS, in their order
FILE, ROWS, THUMBS, REASONS = "images.bin", "rows.npy", "thumbs.npy", "reasons.json"
ROW = np.dtype(
    [
        ("good", "?"),  # false: REASONS says why it is not
        ("digest", "u1", 32),  # of the content of the source
        ("hash", "u8"),  # perceptual
        ("width", "u4"),  # of the source, in pixels
        ("height", "u4"),
        ("at", "u8"),  # offset of the packed content in FILE, and its size
        ("size", "u8"),
        ("suffix", "u1"),  # index into SUFFIXES
        ("copied", "?"),  # byte for byte
        ("sums", "f8", (2, 3)),  # means of the pixels and of their squares, of each channel, pixels of 0 to 1
    ]
)


@dataclass(frozen=True)
class Short(Frame):
    """The whole image, of which the shorter side is reduced to `height` pixels. Smaller images keep their size."""

    @property
    def policy(self) -> str:
        return f"the whole, shorter side at most {self.height}, {self.interpolation}, JPEG {QUALITY}; smaller: copied"

    @property
    def ample(self) -> int:
        return 2 * self.height

    def cut(self, image: Image.Image) -> Image.Image:
        short = min(image.size)
        if short <= self.height:
            return image
        width, height = (max(1, round(side * self.height / short)) for side in image.size)
        return image.resize((width, height), self._filter, reducing_gap=3.0)


@dataclass(frozen=True)
class Batch:
    """The images of a task.

    folder: of the results, which all workers share.  key: name of the result.  contents: of each image.  versions: see
    `versions`.
    """

    folder: Path
    key: str
    names: tuple[str, ...]
    contents: tuple[Content, ...]
    frame: Short
    how: Conversion
    versions: str

    def __str__(self) -> str:
        return f"{len(self.names):,} images, from {printable(self.names[0])} on"


@cache
def versions() -> str:
    """The libraries that decide what bytes an image becomes."""
    from PIL import __version__, features

    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return f"Pillow {__version__}, JPEG {jpeg}, numpy {np.__version__}, torch {version('torch').partition('+')[0]}"


def key_of(names: Sequence[str], facts: Sequence[object], frame: Short, how: Conversion) -> str:
    """The name of a result.  facts: what changes with the content of each image."""
    policy = f"pack {VERSION}; {frame.policy}; {how.policy}; {versions()}"
    text = json.dumps([policy, *zip(names, facts, strict=True)])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def reduce(batch: Batch) -> int:
    """Write the result of a task. Returns the number of its images. Raises UserError if this worker has other libraries
    or no access to the folder, and OSError if the disk is full."""
    if (here := versions()) != batch.versions:
        raise UserError(
            [f"the worker on {socket.gethostname()} has {here}, but {batch.versions} started it; install the same"]
        )
    if not batch.folder.is_dir():
        shared = "the parent of --out must be on a file system that all workers share"
        raise UserError([f"{batch.folder} does not exist on the worker {socket.gethostname()}; {shared}"])
    part = batch.folder / f".{batch.key}.{uuid.uuid4().hex}.part"
    part.mkdir()
    try:
        _fill(batch, part)
        with suppress(FileExistsError):
            if not (batch.folder / batch.key).exists():  # another worker may have run the same task
                place(part, batch.folder / batch.key)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return len(batch.names)


def _fill(batch: Batch, folder: Path) -> None:
    rows = np.zeros(len(batch.names), ROW)
    thumbs = np.zeros((len(rows), THUMB, THUMB, 1), np.uint8)
    reasons: dict[int, str] = {}
    with (folder / FILE).open("wb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about images that are reported
        for at, (name, content) in enumerate(zip(batch.names, batch.contents, strict=True)):
            found = _reduced(content, name, batch)
            if isinstance(found, str):
                reasons[at] = found
                continue
            rows[at], thumbs[at] = found[0], found[2]
            rows[at]["at"], rows[at]["size"] = stream.tell(), len(found[1])
            stream.write(found[1])
    rows["hash"] = _hashes(thumbs)
    np.save(folder / ROWS, rows)
    np.save(folder / THUMBS, thumbs)
    (folder / REASONS).write_text(json.dumps(reasons))


def _reduced(content: Content, name: str, batch: Batch) -> str | tuple[np.ndarray, bytes, np.ndarray]:
    """(a row, the packed content, a thumbnail) of an image; or why it cannot be read."""
    raw: bytes | np.ndarray = b""
    try:
        if content is None:
            return "it is no regular file, or a link that is broken or leads out of the folder"
        raw = content.read_bytes() if isinstance(content, Path) else content
        if isinstance(raw, np.ndarray):
            pixels, area = fitted(raw, batch.frame)
        else:
            one = decoded(raw, name, batch.frame, batch.how)
            pixels, area = one.pixels, one.area
    except (OSError, Unreadable) as error:
        return reason_of(error, raw if isinstance(raw, bytes) else b"")
    row = np.zeros((), ROW)
    row["copied"] = area == pixels.shape[0] * pixels.shape[1]
    if row["copied"] and isinstance(raw, bytes):
        packed, (row["width"], row["height"], row["suffix"]) = raw, _facts(raw)
    else:
        packed = _encoded(pixels, "PNG") if row["copied"] else _encoded(pixels, "JPEG", quality=QUALITY)
        row["suffix"] = int(row["copied"])
        size = raw.shape[1::-1] if isinstance(raw, np.ndarray) else _facts(raw)[:2]
        row["width"], row["height"] = size
    row["good"], row["digest"] = True, np.frombuffer(digest_of(raw), np.uint8)
    row["sums"] = _sums(pixels)
    return row, packed, thumbnail(fitted(pixels, THUMB)[0])


def _encoded(pixels: np.ndarray, form: str, **options: Any) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def _facts(raw: bytes) -> tuple[int, int, int]:
    """(width, height, index into SUFFIXES) of the file of an image."""
    from PIL import Image

    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        return image.width, image.height, FORMATS.index(image.format) if image.format in FORMATS else 0


def _sums(pixels: np.ndarray) -> np.ndarray:
    """Means of the pixels and of their squares, float64 [2, 3], of pixels of 0 to 1; exact sums of integers."""
    from PIL import Image

    counts = np.array(Image.fromarray(pixels).histogram(), np.int64).reshape(3, 256)
    values = np.arange(256)
    area = pixels.shape[0] * pixels.shape[1]
    return np.stack([counts @ values / (255 * area), counts @ values**2 / (255**2 * area)])


def _hashes(thumbs: np.ndarray) -> np.ndarray:
    """Perceptual hashes, uint64 [n]."""
    import torch

    from core.loading.duplicates import hashes

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # there is a worker for each core
    try:
        return hashes(Images(thumbs, np.arange(len(thumbs)), np.zeros(len(thumbs), np.int64)))
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Place:
    """Where the packed content of an image is: a file, an offset in it, and a size in bytes."""

    file: Path
    at: int
    size: int


@dataclass(frozen=True)
class Reduced:
    """The results of all tasks.

    folder: of the results.  rows: ROW [N], of all images.  task: int64 [N], index into `keys`.  position: int64 [N],
    within the task.  reasons: row -> why it cannot be read.
    """

    folder: Path
    keys: tuple[str, ...]
    rows: np.ndarray
    task: np.ndarray
    position: np.ndarray
    reasons: dict[int, str]

    @classmethod
    def read(cls, folder: Path, tasks: Sequence[tuple[str, Sequence[int]]], count: int) -> Reduced:
        """tasks: key and rows of each.  count: number of images."""
        rows = np.zeros(count, ROW)
        task, position = np.zeros(count, np.int64), np.zeros(count, np.int64)
        reasons: dict[int, str] = {}
        for number, (key, members) in enumerate(tasks):
            at = np.array(members, np.int64)
            rows[at] = np.load(folder / key / ROWS)
            task[at], position[at] = number, np.arange(len(at))
            found = json.loads((folder / key / REASONS).read_text())
            reasons.update((members[int(within)], reason) for within, reason in found.items())
        return cls(folder, tuple(key for key, _ in tasks), rows, task, position, reasons)

    def thumbs(self, rows: np.ndarray) -> np.ndarray:
        """Thumbnails, uint8 [n, THUMB, THUMB, 1], of these rows, int64 [n]."""
        found = np.empty((len(rows), THUMB, THUMB, 1), np.uint8)
        for number in np.unique(self.task[rows]).tolist():
            mine = self.task[rows] == number
            found[mine] = np.load(self.folder / self.keys[number] / THUMBS, mmap_mode="r")[self.position[rows[mine]]]
        return found

    def place(self, row: int) -> Place:
        """Where the packed content of an image is."""
        file = self.folder / self.keys[self.task[row]] / FILE
        return Place(file, int(self.rows["at"][row]), int(self.rows["size"][row]))


def contents(places: Iterable[Place]) -> Iterator[bytes]:
    """The packed contents of images. Raises OSError."""
    for each in places:
        with each.file.open("rb", buffering=0) as stream:
            stream.seek(each.at)
            content = stream.read(each.size)
        if len(content) != each.size:
            raise OSError(f"{each.file} ends before byte {each.at + each.size:,}; remove its folder, and start again")
        yield content
