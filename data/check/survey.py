"""The survey of all images of a tree: each is read once, in threads; properties and a thumbnail are kept."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core.engines.engine import Engine
from data.reading import archive, ingest
from data.reading.decode import FORMATS, ORIENTATION, Conversion, Unreadable, decode, deep, fitted, sixteen_bit
from data.reading.frame import Frame
from data.reading.listing import Listing
from data.reading.progress import bar, printable

if TYPE_CHECKING:
    from PIL import Image

Content = archive.Content | np.ndarray  # of a file, or an image uint8 [H, W] or [H, W, C]

THUMB = 32  # side length in pixels of the thumbnails, of which the perceptual hash is computed
# how images other than plain 8-bit RGB are converted; see Conversion in data/reading/decode.py
TREATED = {
    "with 16 bits per channel": "converted to 8 bits; see --data.max_value",
    "in CMYK": "converted by Pillow, without a color profile",
    "with several frames or pages": "the first one is used",
    "rotated by EXIF": "rotated upright",
    "with transparency": "composited over the color --data.background",
    "with a color profile": "the profile is ignored",
}
# the first bytes of files that are often mistaken for images, or are not supported
OTHERS = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"<!DOCTYPE": "a web page, as after a failed download",
    b"<!doctype": "a web page, as after a failed download",
    b"<html": "a web page, as after a failed download",
    b"<svg": "an SVG drawing",
}
BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"jxl ": "JPEG XL"}


@dataclass(frozen=True, slots=True)
class Seen:
    """An image that can be read.  digest: of its content.  width, height: stored size in pixels, before EXIF rotation.
    mode, form: mode and format of Pillow.  treated: keys of TREATED.  peak: largest value of 16-bit grayscale, or None.
    flat: whether all pixels have the same color, once decoded."""

    digest: bytes
    width: int
    height: int
    mode: str
    form: str
    treated: tuple[str, ...]
    peak: int | None
    flat: bool


@dataclass(frozen=True)
class Survey:
    """seen: row of the tree -> image.  unreadable: row -> reason.  thumbs: uint8 [rows, THUMB, THUMB, 1], grayscale."""

    seen: dict[int, Seen]
    unreadable: dict[int, str]
    thumbs: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Images that are examined together: (row, content) of each, their names, and how they are converted."""

    items: list[tuple[int, Content]]
    names: tuple[str, ...]
    how: Conversion

    def __len__(self) -> int:
        return len(self.items)

    def __str__(self) -> str:
        return f"images {self.items[0][0]:,} to {self.items[-1][0]:,}, from {printable(self.names[0])} on"


Examined = list[tuple[int, Seen | str, Any]]


def survey(listing: Listing, how: Conversion, engine: Engine | None = None) -> Survey:
    """Read every image.  engine: runs the work in batches; None: threads of this process do. Raises DataError."""
    found = listing.tree
    count = len(found.names)
    thumbs = np.zeros((count, THUMB, THUMB, 1), np.uint8)
    seen: dict[int, Seen] = {}
    unreadable: dict[int, str] = {}
    shown = bar(f"checking {count:,} images of {found.path.name}", count, "images")
    with warnings.catch_warnings(), shown as advance:
        warnings.simplefilter("ignore")  # Pillow warns about images that are reported below
        batches = (
            Batch(items, tuple(found.names[row] for row, _ in items), how)
            for items in ingest.batches(listing.contents())
        )
        for outcome in engine.map(elsewhere, batches) if engine else ingest.in_threads(examined, batches):
            for row, one, thumb in outcome:
                if isinstance(one, Seen):
                    seen[row], thumbs[row] = one, thumb
                elif one:
                    unreadable[row] = one
            advance(len(outcome))
    return Survey(dict(sorted(seen.items())), dict(sorted(unreadable.items())), thumbs)


def examined(batch: Batch) -> Examined:
    """(row, its properties, thumbnail uint8 [THUMB, THUMB, 1]) of each image of a batch; or (row, the reason why it
    cannot be read, None), with the reason "" if that has been reported before."""
    return [
        (row, *_examined(content, name, batch.how))
        for (row, content), name in zip(batch.items, batch.names, strict=True)
    ]


def elsewhere(batch: Batch) -> Examined:
    """As `examined`, in a process of its own, which has its own filters of warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return examined(batch)


def _examined(content: Content, name: str, how: Conversion) -> tuple[Seen | str, Any]:
    if content is None:
        return "", None
    if isinstance(content, np.ndarray):
        pixels = fitted(content, THUMB)[0]
        height, width = content.shape[:2]
        mode = "RGB" if content.shape[2:] == (3,) else "L"
        return Seen(digest_of(content), width, height, mode, "array", (), None, _flat(pixels)), thumbnail(pixels)
    try:
        raw = content.read_bytes() if isinstance(content, Path) else content
        pixels = decode(raw, name, THUMB, how)
    except (OSError, Unreadable) as error:
        return reason_of(error, raw if isinstance(error, Unreadable) else b""), None
    from PIL import Image

    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        treated, form = tuple(_treated(image)), str(image.format)
        peak = int(sixteen_bit(image).max()) if image.mode.startswith("I") else None
        seen = Seen(digest_of(raw), image.width, image.height, image.mode, form, treated, peak, _flat(pixels))
    return seen, thumbnail(pixels)


def digest_of(content: bytes | np.ndarray) -> bytes:
    """SHA-256 of the content of a file, or of the shape and pixels of an array."""
    raw = str(content.shape).encode() + content.tobytes() if isinstance(content, np.ndarray) else content
    return hashlib.sha256(raw).digest()


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Gray values, uint8 [THUMB, THUMB, 1], of an image uint8 [THUMB, THUMB, 3]."""
    gray: np.ndarray = np.rint(pixels.mean(axis=2, keepdims=True)).astype(np.uint8)
    return gray


def reason_of(error: OSError | Unreadable, raw: bytes) -> str:
    """Why an image cannot be read.  raw: the content of the file, if it could be read."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return _reason(raw) or error.lines[0].partition(": ")[2]


def pixels_of(content: Content, name: str, size: int | Frame, how: Conversion) -> np.ndarray:
    """The frame of an image, uint8 [H, W, 3]. Raises Unreadable."""
    if isinstance(content, np.ndarray):
        return fitted(content, size)[0]
    return decode(content.read_bytes() if isinstance(content, Path) else content or b"", name, size, how)


def _flat(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[0, 0]).all())


def _treated(image: Image.Image) -> Iterator[str]:
    if deep(image):
        yield "with 16 bits per channel"
    if image.mode == "CMYK":
        yield "in CMYK"
    if _several(image):
        yield "with several frames or pages"
    # getexif decodes a whole PNG that has no EXIF
    if (image.format != "PNG" or "exif" in image.info) and image.getexif().get(ORIENTATION, 1) != 1:
        yield "rotated by EXIF"
    if image.has_transparency_data:
        yield "with transparency"
    if "icc_profile" in image.info:
        yield "with a color profile"


def _several(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the data after a valid first frame can be arbitrary
        return False


def _reason(raw: bytes) -> str:
    """A clearer reason than Pillow's for a file that is not an image; "" if it is or may be one."""
    if not raw:
        return "the file is empty"
    if not any(raw):
        return "the file contains only zeros, as after an interrupted copy"
    for start, what in OTHERS.items():
        if raw.lstrip()[: len(start)] == start:
            return f"not an image but {what}"
    if raw[4:8] == b"ftyp" and raw[8:12] in BRANDS:
        return f"{BRANDS[raw[8:12]]} is not supported; convert the file to JPEG or PNG"
    try:
        text = raw[:512].decode("utf-8", "strict" if len(raw) <= 512 else "ignore")
    except UnicodeDecodeError:
        return ""
    portable = raw[:1] == b"P" and raw[1:2].isdigit()  # PPM is text, too
    return "not an image but text" if not portable and all(s.isprintable() or s.isspace() for s in text) else ""
