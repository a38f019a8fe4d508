"""What each image of a tree is: read once, in threads, kept as a few numbers and a thumbnail."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.reading import archive, ingest, tree
from data.reading.decode import FORMATS, ORIENTATION, Unreadable, decode
from data.reading.progress import bar

if TYPE_CHECKING:
    from PIL import Image

THUMB = 32  # pixels a side: what the perceptual hash looks at
# What is done with an image that is more than a plain RGB picture; see data.decode.POLICY.
TREATED = {
    "of 16 bits a channel": "its high byte is taken",
    "in CMYK": "converted by Pillow, without a color profile",
    "of several frames or pages": "the first is taken",
    "turned by EXIF": "turned upright",
    "with transparency": "laid over black",
    "with a color profile": "the profile is ignored",
}
# The beginnings of files that are often taken for images, or that labbook does not read.
OTHERS = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"<!DOCTYPE": "a web page, as failed downloads leave them",
    b"<!doctype": "a web page, as failed downloads leave them",
    b"<html": "a web page, as failed downloads leave them",
    b"<svg": "an SVG drawing",
}
BRANDS = {b"avif": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"jxl ": "JPEG XL"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One image that can be read. digest: of its content.  width, height: of the file, in pixels, before it is turned.
    mode, form: Pillow's names.  treated: keys of TREATED."""

    digest: bytes
    width: int
    height: int
    mode: str
    form: str
    treated: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """seen: row of the tree -> what it is.  unreadable: row -> why.  thumbs: uint8 [rows, THUMB, THUMB, 1], gray."""

    seen: dict[int, Seen]
    unreadable: dict[int, str]
    thumbs: np.ndarray


def survey(found: tree.Tree, refuse: archive.Refuse) -> Survey:
    """Read every image of a tree. refuse: told what in a folder cannot be taken. Raises DataError."""
    count = len(found.names)
    thumbs = np.zeros((count, THUMB, THUMB, 1), np.uint8)
    seen: dict[int, Seen] = {}
    unreadable: dict[int, str] = {}
    shown = bar(f"checking {count:,} images of {found.path.name}", count, "images")
    with warnings.catch_warnings(), shown as advance:
        warnings.simplefilter("ignore")  # Pillow's, of what is told below by name

        def job(batch: list[tuple[int, archive.Content]]) -> list[tuple[int, Seen | str]]:
            return [(row, _examined(content, found.names[row], thumbs[row])) for row, content in batch]

        for outcome in ingest.in_threads(job, ingest.batches(tree.contents(found, refuse))):
            for row, one in outcome:
                if isinstance(one, Seen):
                    seen[row] = one
                elif one:
                    unreadable[row] = one
            advance(len(outcome))
    return Survey(dict(sorted(seen.items())), dict(sorted(unreadable.items())), thumbs)


def _examined(content: archive.Content, name: str, thumb: np.ndarray) -> Seen | str:
    """What it is, its thumbnail written; or why it cannot be read: "" for what was refused, and told, before."""
    if content is None:
        return ""
    try:
        raw = content.read_bytes() if isinstance(content, Path) else content
        pixels = decode(raw, name, THUMB)
    except Unreadable as error:
        return _reason(raw) or error.lines[0].partition(": ")[2]
    except OSError as error:
        return error.strerror or str(error)
    thumb[..., 0] = np.rint(pixels.mean(axis=2))
    from PIL import Image

    with Image.open(io.BytesIO(raw), formats=FORMATS) as image:
        treated = tuple(_treated(image))
        return Seen(hashlib.sha256(raw).digest(), image.width, image.height, image.mode, str(image.format), treated)


def _treated(image: Image.Image) -> Iterator[str]:
    if image.mode.startswith("I") or any(_deep(tile[3]) for tile in getattr(image, "tile", ())):
        yield "of 16 bits a channel"
    if image.mode == "CMYK":
        yield "in CMYK"
    if _several(image):
        yield "of several frames or pages"
    # asked for it, a PNG that has no EXIF would be decoded to its end
    if (image.format != "PNG" or "exif" in image.info) and image.getexif().get(ORIENTATION, 1) != 1:
        yield "turned by EXIF"
    if image.has_transparency_data:
        yield "with transparency"
    if "icc_profile" in image.info:
        yield "with a color profile"


def _several(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows a sound first image may be anything
        return False


def _deep(packing: Any) -> bool:
    """Whether the arguments of a decoder of Pillow say 16 bits a channel; BGR;16 are those of three channels."""
    raw_mode = str(packing[0] if isinstance(packing, tuple) and packing else packing)
    return ";16" in raw_mode and not raw_mode.startswith("BGR")


def _reason(raw: bytes) -> str:
    """Plainer than Pillow's, for what is no image at all; "" where it is one, or may be."""
    if not raw:
        return "empty: it has 0 bytes"
    if not any(raw):
        return "nothing but zeros, as an interrupted copy leaves it"
    for start, what in OTHERS.items():
        if raw.lstrip()[: len(start)] == start:
            return f"no image but {what}"
    if raw[4:8] == b"ftyp" and raw[8:12] in BRANDS:
        return f"{BRANDS[raw[8:12]]}, which labbook does not read; convert it to JPEG or PNG"
    try:
        text = raw[:512].decode("utf-8", "strict" if len(raw) <= 512 else "ignore")
    except UnicodeDecodeError:
        return ""
    portable = raw[:1] == b"P" and raw[1:2].isdigit()  # PPM is text, too
    return "no image but text" if not portable and all(s.isprintable() or s.isspace() for s in text) else ""
