"""The cache of decoded images: built once, then memory-mapped.

store()/cache/<digest>/pixels.npy and index.json    a cache, either complete or absent; of images that are kept reduced,
                                                    pixels.npy has the contents of their files, uint8 [bytes]
store()/cache/sources/<key>.json                    the digest of the cache of a source (its names, sizes and times)
store()/cache/<digest>/checked                      its pixels matched their digests at the time of this file
store()/cache/<digest>/damaged                      they did not: the cache is built again when it is opened next
store()/cache/tmp-<key>/                            a cache being built, under the lock sources/<key>.lock; it is
                                                    continued if it was growing when its process was killed
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.common.files import place
from core.common.paths import store
from core.loading.images import Images, Pixels
from data.reading import disk
from data.reading.growing import PROGRESS
from data.reading.progress import say

FORMAT = 1
CHUNK = 16 << 20  # bytes of pixels.npy for which the index has a digest
CHECKED, DAMAGED = "checked", "damaged"
LEFT_FOR = 24 * 3600.0  # s for which a build that can be continued is left
CHECK_AFTER = 24 * 3600.0  # s after which a cache is checked again


@dataclass(frozen=True)
class Index:
    """The index of a cache. For each image: name, label (index into classes), split, row in pixels, and the number of
    pixels of its file (areas; empty if all are equal).

    labels: of multi-label images, a list of 0 and 1 for each.
    places: (offset, size) in bytes of each image in the tar file with which its name starts, or in pixels.npy if that
    has contents; empty for other sources.
    digest: sha256 of names, contents and policy.  source: description of the data it was built from.  top: see Cached.
    """

    digest: str
    policy: str
    source: str
    classes: list[str]
    names: list[str]
    labels: list[Any]
    splits: list[str]
    rows: list[int]
    areas: list[int] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    top: str = ""
    format: int = FORMAT


@dataclass(frozen=True)
class Cached:
    """An opened cache.

    source: description of the requested data; that of the index can be another form of the same images.  pixels: None
    if the cache stores none, because the files are decoded during training.  top: common top folder of all names in the
    requested data, "" or "name/".
    """

    index: Index
    pixels: np.ndarray | None
    source: str
    top: str = ""

    def images(self, split: str, files: Pixels | None = None) -> Images:
        """The images of one split, sorted by name.  files: the images, if the cache does not store pixels."""
        pixels = self.pixels if files is None else files
        assert pixels is not None
        chosen = np.array([name == split for name in self.index.splits], dtype=bool)
        rows = np.array(self.index.rows, dtype=np.int64)
        areas = None
        if self.index.areas:
            areas = np.zeros(len(pixels), dtype=np.int64)
            areas[rows] = self.index.areas
        targets = np.array(self.index.labels, dtype=np.int64)[chosen]
        return Images(pixels, rows[chosen], targets if targets.ndim == 1 else targets.astype(np.float32), areas)


class _Damaged(Exception):
    """A cache that exists but is damaged."""


def fetch(source: str, build: Callable[[Path], Index]) -> Cached:
    """Open the cache of a source, building it first if needed.

    source: a string that changes if the source or the way of reading it changes.  build(folder): writes pixels.npy to
    the folder, if pixels are stored; if it raises, nothing is left on disk. Raises DataError.
    """
    found = _fetched(source, build)
    _check_in_background(store() / "cache" / found.index.digest)
    return found


def _fetched(source: str, build: Callable[[Path], Index]) -> Cached:
    root = store() / "cache"
    key = hashlib.sha256(source.encode()).hexdigest()[:32]
    try:
        if found := _look_up(root, key):
            return found
    except _Damaged:
        pass  # reported below, unless another process is rebuilding it
    with disk.locked(_lock(root, key), "waiting: another process is decoding the same images"):
        try:
            if found := _look_up(root, key):
                return found
        except _Damaged as damage:
            say(f"{damage}; rebuilding it")
        with disk.as_data_error(root):
            _sweep(root, key)
            return _built(root, key, build)


@contextmanager
def pixel_file(folder: Path, shape: tuple[int, int, int, int]) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Context manager that writes folder/pixels.npy, uint8 [M, H, W, C], with a function put(first row, pixels), where
    pixels are uint8 [n, H, W, C], or one image.

    put can be called from any thread, for rows in any order. It uses pwrite instead of a memory map, because writing to
    a memory map kills the process if the disk is full.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    start, row_bytes = header.tell(), shape[1] * shape[2] * shape[3]
    total = start + shape[0] * row_bytes
    with disk.writing(folder, total, f"the cache of {shape[0]:,} decoded images"):
        descriptor = os.open(folder / "pixels.npy", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.truncate(descriptor, total)

            def put(row: int, pixels: np.ndarray) -> None:
                _write_at(descriptor, start + row * row_bytes, np.ascontiguousarray(pixels))

            _write_at(descriptor, 0, header.getvalue())
            yield put
        finally:
            os.close(descriptor)


@contextmanager
def appended(folder: Path, shape: tuple[int, int, int]) -> Iterator[Callable[[np.ndarray], None]]:
    """Context manager that writes folder/pixels.npy, uint8 [M, H, W, C], with a function that adds one image, for
    sources that do not know how many images they have. shape: (H, W, C)"""
    count = 0

    def header() -> bytes:
        stream = io.BytesIO()  # NumPy leaves room for the number of images, so that its length does not change
        form = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(stream, form)
        return stream.getvalue()

    with disk.writing(folder, 0, "the cache of decoded images"), (folder / "pixels.npy").open("wb") as stream:
        stream.write(header())

        def add(pixels: np.ndarray) -> None:
            nonlocal count
            stream.write(np.ascontiguousarray(pixels).data)
            count += 1

        yield add
        stream.seek(0)
        stream.write(header())


def _write_at(descriptor: int, offset: int, content: bytes | np.ndarray) -> None:
    view = (content.data if isinstance(content, np.ndarray) else memoryview(content)).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _built(root: Path, key: str, build: Callable[[Path], Index]) -> Cached:
    part = root / f"tmp-{key}"
    part.mkdir(exist_ok=True)
    left = False
    try:
        index = build(part)
        size = (part / "pixels.npy").stat().st_size if (part / "pixels.npy").exists() else None
        with disk.writing(part, 0, "the index of the cache"):
            chunks = [] if size is None else list(_digests(part / "pixels.npy"))
            (part / "index.json").write_text(json.dumps(vars(index) | {"bytes": size, "chunks": chunks}))
        (part / PROGRESS).unlink(missing_ok=True)
        with disk.locked(root / "place.lock", "waiting: another process is finishing a cache"):
            _place(root, part, index)
            _note(root, key, {"digest": index.digest, "source": index.source, "top": index.top})
    except KeyboardInterrupt:
        left = (part / PROGRESS).exists()
        raise
    finally:
        if not left:
            shutil.rmtree(part, ignore_errors=True)
    if chunks:  # their digests have just been computed
        (root / index.digest / CHECKED).touch()
    return Cached(*_open(root / index.digest), index.source, index.top)


def _place(root: Path, part: Path, new: Index) -> None:
    target = root / new.digest
    try:
        if target.exists():
            index, _ = _open(target)
            if all(getattr(index, name) == getattr(new, name) for name in ("classes", "labels", "splits")):
                return  # the same images have been cached before, from another form or path
    except _Damaged as damage:
        say(f"{damage}; replacing it")
    shutil.rmtree(target, ignore_errors=True)
    place(part, target)


def _note(root: Path, key: str, note: dict[str, str]) -> None:
    part = root / "sources" / f"{key}.part"
    with disk.writing(part.parent, 0, "the note of the cache"):
        part.write_text(json.dumps(note))
        place(part, part.with_suffix(".json"))


def _look_up(root: Path, key: str) -> Cached | None:
    try:
        note = json.loads((root / "sources" / f"{key}.json").read_text())
        folder, source, top = root / note["digest"], note["source"], note.get("top", "")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        raise _Damaged(f"the cache entry {root / 'sources' / key}.json is damaged") from None
    if not folder.exists():
        return None
    with contextlib.suppress(OSError):  # the time of last use, which `labbook cache` shows
        os.utime(root / "sources" / f"{key}.json")
    return Cached(*_open(folder), source, top)


def _open(folder: Path) -> tuple[Index, np.ndarray | None]:
    """Raises _Damaged."""
    try:
        record = json.loads((folder / "index.json").read_text())
        size = record.pop("bytes")
        record.pop("chunks", None)
        if (folder / DAMAGED).exists():
            raise ValueError("pixels.npy does not match its digests")
        index = Index(**record)
        if index.format != FORMAT or index.digest != folder.name:
            raise ValueError("index.json belongs to another cache")
        areas = index.areas or index.rows
        if len({len(index.names), len(index.labels), len(index.splits), len(index.rows), len(areas)}) != 1:
            raise ValueError("index.json has columns of different lengths")
        if size is None:
            return index, None
        if (folder / "pixels.npy").stat().st_size != size:
            raise ValueError("pixels.npy has changed its size")
        return index, np.load(folder / "pixels.npy", mmap_mode="r")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _Damaged(f"the cache {folder} is damaged ({error})") from None


def _check_in_background(folder: Path) -> threading.Thread | None:
    """Compare the pixels of a cache with their digests, once a day, in a thread; None if there is nothing to do."""
    try:
        if time.time() - (folder / CHECKED).stat().st_mtime < CHECK_AFTER:
            return None
    except FileNotFoundError:
        pass
    thread = threading.Thread(target=_check, args=(folder,), name=f"check of {folder.name}", daemon=True)
    thread.start()
    return thread


def _check(folder: Path) -> None:
    # removed or replaced meanwhile, or on a disk that cannot be written to; a damaged index is noticed where it is read
    with contextlib.suppress(OSError, ValueError):
        chunks = json.loads((folder / "index.json").read_bytes()).get("chunks")
        if not chunks:
            return  # no pixels, or a cache of an older version
        for number, (digest, written) in enumerate(zip(_digests(folder / "pixels.npy"), chunks, strict=True)):
            if digest != written:
                (folder / DAMAGED).touch()
                where = f"bytes {number * CHUNK:,} to {(number + 1) * CHUNK:,} of {folder / 'pixels.npy'}"
                say(
                    f"{where} are damaged: images are not what was decoded; stop this run and start it again, "
                    "which decodes the images again, and look at the disk"
                )
                return
        (folder / CHECKED).touch()


def _digests(path: Path) -> Iterator[str]:
    """Yield the SHA-256 of each chunk of a file."""
    with path.open("rb") as stream:
        while content := stream.read(CHUNK):
            yield hashlib.sha256(content).hexdigest()


def _lock(root: Path, key: str) -> Path:
    return root / "sources" / f"{key}.lock"


def _sweep(root: Path, own: str) -> None:
    """Remove folders left by killed builds, whose lock is free, except those that can be continued: the own one, and
    others for a day.  own: the key whose lock this process holds."""
    for left in root.glob("tmp-*"):
        if left.name == f"tmp-{own}":
            if not (left / PROGRESS).exists():
                shutil.rmtree(left, ignore_errors=True)
            continue
        with contextlib.suppress(FileNotFoundError):
            if time.time() - (left / PROGRESS).stat().st_mtime < LEFT_FOR:
                continue
        with disk.if_free(_lock(root, left.name.removeprefix("tmp-"))) as dead:
            if dead:
                shutil.rmtree(left, ignore_errors=True)
