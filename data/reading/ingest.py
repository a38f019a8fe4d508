"""Decoding of all image files of a source into a cache, in threads."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from core.common.errors import DataError
from core.common.machine import usable_cores
from data.reading import archive, cache, tree
from data.reading.decode import AS_DECLARED, FIRST, UNSUPPORTED, Conversion, Decoded, Unreadable, decoded, fitted
from data.reading.frame import Frame, Reduced, encoded
from data.reading.growing import growing
from data.reading.layout import Layout
from data.reading.progress import bar, first, printable, say

Stored = archive.Content | np.ndarray  # content or path of a file, or an array uint8 [H, W] or [H, W, C]

_SMALL_SECONDS, _SLOW_SECONDS = 4e-4, 4e-3  # of the CPU to decode a small image; to read one from a slow disk
_BATCH_IMAGES, _BATCH_BYTES = 64, 8 << 20  # size of the batch of a thread: bounds memory and overhead
Outcome = TypeVar("Outcome")
Key = TypeVar("Key", int, str)  # of an image: its row, or its name


@dataclass(frozen=True)
class Recipe:
    """How image files are converted to arrays of the height and width of a frame; if it is Reduced, to smaller files.

    exact: name of a dataset whose files must have this size already, or None.  keep: store the decoded pixels;
    otherwise files are decoded once, to check them, and again during training.  listed: how many unreadable images are
    listed by name; None: all.  conversion: of pixels that are not 8-bit RGB.
    """

    frame: Frame
    exact: str | None = None
    skip_unreadable: bool = False
    keep: bool = True
    listed: int | None = 50
    conversion: Conversion = AS_DECLARED

    @property
    def policy(self) -> str:
        """How files are converted, in words; part of the key of a cache."""
        return self._policy(self.conversion)

    @property
    def first_policy(self) -> str:
        """The policy in the digest of the data: the same for every conversion, because the digest names the images
        that an option has changed, and keeps its value for all others."""
        return self._policy(FIRST)

    def _policy(self, conversion: Conversion) -> str:
        frame = self.frame
        how = f"{frame.width} x {frame.height}, as stored" if self.exact else frame.policy
        when = "" if self.keep else "; whenever it comes"
        return f"{conversion.policy}; {how}{when}"


@dataclass(frozen=True)
class _Outcome:
    """The result of a batch.  hashes: (row, sha256 of the content and how it was converted) of the decoded images.
    areas: number of pixels of their files.  unreadable: an error line for each other image.  contents: the files that
    are kept, if images are reduced."""

    hashes: list[tuple[int, str]]
    areas: list[int]
    unreadable: list[str]
    contents: list[bytes]


def build(
    found: tree.Tree,
    layout: Layout,
    recipe: Recipe,
    folder: Path,
    contents: Iterable[tuple[int, Stored]] | None = None,
) -> cache.Index:
    """Decode the images of a tree to folder/pixels.npy; returns the index.

    contents: (index into found.names, content) of each image, if they are not those of the tree. Raises one Unreadable
    that lists the images that cannot be read.
    """
    if isinstance(recipe.frame, Reduced):
        return _build_reduced(found, layout, recipe, folder)
    count, shape = len(found.names), (recipe.frame.height, recipe.frame.width, 3)
    hashes: dict[int, str] = {}
    areas: dict[int, int] = {}
    unreadable: list[str] = []
    doing = "decoding" if recipe.keep else "checking"
    shown = bar(f"{doing} {count:,} images of {found.path.name}", count, "images")
    kept = cache.pixel_file(folder, (count, *shape)) if recipe.keep else nullcontext(_forget)
    with kept as put, shown as advance:

        def job(batch: list[tuple[int, Stored]]) -> _Outcome:
            return _decode_batch(batch, found.names, recipe, put)

        for outcome in in_threads(job, batches(contents or tree.contents(found))):
            hashes.update(outcome.hashes)
            areas.update(zip((row for row, _ in outcome.hashes), outcome.areas, strict=True))
            unreadable += outcome.unreadable
            advance(len(outcome.hashes) + len(outcome.unreadable))
    _refuse(found, recipe, unreadable, hashes)
    return _index(found, layout, recipe, hashes, areas, len(unreadable))


def build_stream(
    source: Path,
    classes: Sequence[str],
    contents: Iterable[tuple[str, int, Stored]],
    recipe: Recipe,
    folder: Path,
) -> cache.Index:
    """As `build`, for images that come one after the other, with their labels, and are not counted before.

    source: for messages.  contents: (split, label, content) of each image. Raises Unreadable
    as `build` does.
    """
    shape = recipe.frame.height, recipe.frame.width, 3
    names: list[str] = []
    splits: list[str] = []
    labels: list[int] = []
    hashes: dict[int, str] = {}
    areas: dict[int, int] = {}
    unreadable: list[str] = []

    def numbered() -> Iterator[tuple[int, Stored]]:
        seen: Counter[str] = Counter()
        for row, (split, label, content) in enumerate(contents):
            names.append(f"{split}/{seen[split]:08}")
            seen[split] += 1
            splits.append(split)
            labels.append(label)
            yield row, content

    def job(batch: list[tuple[int, Stored]]) -> tuple[_Outcome, list[np.ndarray]]:
        pixels = {row: np.zeros(shape, np.uint8) for row, _ in batch}  # which an image that cannot be read leaves
        outcome = _decode_batch(batch, names, recipe, pixels.__setitem__)
        return outcome, [pixels[row] for row, _ in batch]

    shown = bar(f"decoding the images of {source.name}", None, "images")
    with cache.appended(folder, shape) as add, shown as advance:
        for outcome, images in in_threads(job, batches(numbered())):
            for image in images:
                add(image)
            hashes.update(outcome.hashes)
            areas.update(zip((row for row, _ in outcome.hashes), outcome.areas, strict=True))
            unreadable += outcome.unreadable
            advance(len(images))
    found = tree.Tree(source, "", tuple(names), frozenset(), ())
    _refuse(found, recipe, unreadable, hashes)
    arranged = Layout(tuple(classes), tuple(splits), tuple(labels))
    return _index(found, arranged, recipe, hashes, areas, len(unreadable))


def _build_reduced(found: tree.Tree, layout: Layout, recipe: Recipe, folder: Path) -> cache.Index:
    """As `build`, for files that are kept smaller; what a killed process has finished is not done again."""
    unreadable: list[str] = []
    count = len(found.names)
    shown = bar(f"reducing {count:,} images of {found.path.name}", count, "images")
    with growing(folder, count) as kept, shown as advance:
        if kept.rows:
            say(f"continuing after {len(kept.rows):,} of {count:,} images that were reduced before")
            advance(len(kept.rows))

        def job(batch: list[tuple[int, Stored]]) -> _Outcome:
            return _decode_batch(batch, found.names, recipe, _forget)

        rest = ((row, content) for row, content in tree.contents(found) if row not in kept.rows)
        for outcome in in_threads(job, batches(rest)):
            kept.add(outcome.hashes, outcome.areas, outcome.contents)
            unreadable += outcome.unreadable
            advance(len(outcome.hashes) + len(outcome.unreadable))
        hashes = {row: one.hash for row, one in kept.rows.items()}
        _refuse(found, recipe, unreadable, hashes)
    areas = {row: one.area for row, one in kept.rows.items()}
    index = _index(found, layout, recipe, hashes, areas, len(unreadable))
    return replace(index, places=[list(kept.rows[row].place) for row in index.rows])


def _refuse(found: tree.Tree, recipe: Recipe, unreadable: list[str], hashes: dict[int, str]) -> None:
    """Raises Unreadable for images that cannot be read, or says that they are left out."""
    unreadable.sort()
    if unreadable and not (recipe.skip_unreadable and hashes):
        raise Unreadable(_report(found, unreadable, recipe.listed))
    for line in first(unreadable):
        say(f"skipped, cannot be read: {line}")


def _forget(row: int, pixels: np.ndarray) -> None:
    """The put function of a cache without pixels."""


def _decode_batch(batch: Any, names: Sequence[str], recipe: Recipe, put: Callable[[int, np.ndarray], None]) -> _Outcome:
    outcome = _Outcome([], [], [], [])
    for row, content in batch:
        try:
            raw = content.read_bytes() if isinstance(content, Path) else content
            if isinstance(raw, np.ndarray):
                one = Decoded(*fitted(raw, recipe.frame))
            else:
                one = decoded(raw, names[row], None if recipe.exact else recipe.frame, recipe.conversion)
        except Unreadable as error:
            outcome.unreadable.extend(error.lines)
        except OSError as error:
            outcome.unreadable.append(f"{printable(names[row])}: {error.strerror}")
        else:
            if isinstance(recipe.frame, Reduced):
                outcome.contents.append(encoded(one.pixels))
            elif one.pixels.shape[:2] != (recipe.frame.height, recipe.frame.width):
                raise _other_size(names[row], one.pixels, recipe)
            put(row, one.pixels)
            outcome.hashes.append((row, _sha256(raw) + one.converted))
            outcome.areas.append(one.area)
    return outcome


def _sha256(raw: bytes | np.ndarray) -> str:
    if isinstance(raw, np.ndarray):
        raw = str(raw.shape).encode() + raw.tobytes()
    return hashlib.sha256(raw).hexdigest()


def batches(items: Iterable[tuple[Key, Stored]]) -> Iterator[list[tuple[Key, Stored]]]:
    """Group items into batches, each the unit of work of a thread in `in_threads`."""
    batch: list[tuple[Key, Stored]] = []
    size = 0
    for key, content in items:
        batch.append((key, content))
        size += len(content) if isinstance(content, bytes) else getattr(content, "nbytes", 0)
        if len(batch) >= _BATCH_IMAGES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def in_threads(job: Callable[[Any], Outcome], batches: Iterable[Any]) -> Iterator[Outcome]:
    """job(batch) of each batch, in order. Small images are processed without threads, which would compete for the
    interpreter lock and take longer. From the first batch of larger images, or from a slow disk, on, threads are used.
    Other work of the machine does not make images large: they are judged by the time of the CPU."""
    rest = iter(batches)
    for number, batch in enumerate(rest):
        began, busy = time.perf_counter(), time.thread_time()
        outcome = job(batch)
        busy, took = time.thread_time() - busy, time.perf_counter() - began
        # the first batch includes the imports of Pillow
        large = number > 0 and (busy > _SMALL_SECONDS * len(batch) or took > _SLOW_SECONDS * len(batch))
        yield outcome
        if large:
            break
    yield from _in_pool(job, rest)


def _in_pool(job: Callable[[Any], Outcome], batches: Iterable[Any]) -> Iterator[Outcome]:
    """job(batch) of each batch, in threads; at most two batches per thread are read ahead."""
    workers = min(8, usable_cores())
    waiting: deque[Future[Outcome]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            for batch in batches:
                waiting.append(pool.submit(job, batch))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _index(
    found: tree.Tree, layout: Layout, recipe: Recipe, hashes: dict[int, str], areas: dict[int, int], skipped: int
) -> cache.Index:
    rows = sorted(hashes)
    digest = hashlib.sha256(recipe.first_policy.encode())
    for row in rows:
        digest.update(f"\n{hashes[row]} {found.names[row]}".encode("utf-8", "surrogateescape"))
    left = [*notes(found), *([f"{skipped:,} unreadable left out"] if skipped else [])]
    return cache.Index(
        digest=digest.hexdigest(),
        policy=recipe.policy,
        source=f"{found.path.name}: " + ", ".join([f"{len(rows):,} images", *left]),
        classes=list(layout.classes),
        names=[found.names[row] for row in rows],
        labels=[layout.labels[row] for row in rows],
        splits=[layout.splits[row] for row in rows],
        rows=rows,
        top=found.top,
        areas=[areas[row] for row in rows] if len(set(areas.values())) > 1 else [],
    )


def notes(found: tree.Tree) -> list[str]:
    """What the description of the data says of files that are not images."""
    suffixes = Counter(PurePosixPath(name).suffix.lower() for name in found.others)
    unsupported = {suffix: count for suffix, count in suffixes.items() if suffix in UNSUPPORTED}
    left, images = len(found.others) - sum(unsupported.values()), sum(unsupported.values())
    said = f"{images:,} images in formats that are not supported ({', '.join(sorted(unsupported))}) left out"
    return [*([said] if images else []), *([f"{left:,} other files left out"] if left else [])]


def _report(found: tree.Tree, unreadable: list[str], listed: int | None) -> list[str]:
    head = f"{found.path}: {len(unreadable):,} of {len(found.names):,} images cannot be read"
    return [head, *first(unreadable, listed or len(unreadable)), "repair or remove these files"]


def _other_size(name: str, pixels: np.ndarray, recipe: Recipe) -> DataError:
    size, got = f"{recipe.frame.width} x {recipe.frame.height}", f"{pixels.shape[1]} x {pixels.shape[0]}"
    line = f"{printable(name)} has {got} pixels, but {recipe.exact} has {size}"
    return DataError([f"{line}; for your own images, use --data ImageFolder"])
