"""Items: the base class of data sets whose items (image, target) are made by code of others."""

from __future__ import annotations

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from core.common.errors import DataError, ImageLost, UserError
from core.common.factory import said
from core.common.generators import lent_generators
from core.common.text import numbered
from core.loading.images import Box, Dataset, Order, Splits
from data.folder import divided
from data.reading import cache, weights
from data.reading.disk import as_data_error
from data.reading.frame import LEAST, MOST, Frame, Interpolation, Size, sides
from data.reading.items import Form, Label, described, label_of, pair_of, pixels_of, wrong_labels
from data.reading.progress import bar, first, printable, say

PROBED = 32  # items that are read at every start: twice, and compared with those that the cache was made of
_OF_SPLITS = ("val_fraction", "split_seed", "test_fraction", "weights")
FILES = 10_000  # of a folder that an argument names; the times of more are not looked at


@dataclass(frozen=True)
class Source:
    """What makes the items of one split.  split: train, val, test, or layout.WHOLE.  title: for messages."""

    split: str
    title: str
    make: Callable[[], Any]

    def opened(self) -> Any:
        """A new data set. Raises DataError if it is none."""
        from torch.utils.data import DataLoader

        made = self.make()
        if isinstance(made, DataLoader):
            raise DataError([f"{self.title} returned a DataLoader; return its Dataset: images are batched here"])
        if not (self.has_length(made) or hasattr(made, "__iter__")) or isinstance(made, str | bytes | Mapping):
            expected = "a Dataset or IterableDataset, or a generator of pairs (image, target), is expected"
            raise DataError([f"{self.title} returned an object that is {described(made)}; {expected}"])
        if self.has_length(made):
            try:
                len(made)
            except (Exception, SystemExit) as error:  # whatever the code of a user raises
                raise DataError([f"{self.title} returned a data set without a length: {said(error)}"]) from None
        return made

    @staticmethod
    def has_length(made: Any) -> bool:
        """Whether items are read by their index; otherwise one after the other."""
        from torch.utils.data import IterableDataset

        return not isinstance(made, IterableDataset) and hasattr(made, "__getitem__") and hasattr(made, "__len__")

    def items(self, made: Any) -> Iterator[tuple[str, Any]]:
        """(name, item) of all items. Raises DataError where the code of the data set fails."""
        rest = (made[at] for at in range(len(made))) if self.has_length(made) else iter(made)
        yield from self._guarded(rest, count())

    def some(self, made: Any) -> Iterator[tuple[str, Any]]:
        """(name, item) of PROBED items, from all over the data set, or the first ones of a stream."""
        if not self.has_length(made):
            yield from islice(self.items(made), PROBED)
            return
        places = sorted({at * len(made) // PROBED for at in range(PROBED)}) if len(made) else []
        yield from self._guarded((made[at] for at in places), places)

    def _guarded(self, items: Iterable[Any], numbers: Iterable[int]) -> Iterator[tuple[str, Any]]:
        """(name, item) of each item, which has this number in the data set."""
        numbered, rest = iter(numbers), iter(items)
        while True:
            name = f"{self.title}: item {next(numbered, '')}"
            try:
                item = next(rest)
            except StopIteration:
                return
            except UserError:
                raise
            except (Exception, SystemExit) as error:  # whatever the code of a user raises
                raise DataError([f"{name} cannot be read: {said(error)}"]) from None
            yield name, item


class Items(Dataset, ABC):
    """Base class of data sets whose items (image, target) are made by code of others."""

    size: Size | None = Field(
        None,
        description="image size in pixels, a side or HEIGHTxWIDTH: the largest centered area of this shape is resized "
        f"to it ({LEAST} to {MOST}); none: images are used as they come, and must all have one size",
    )
    interpolation: Interpolation = Field("bilinear", description="interpolation with which images are resized to size")
    channels: Literal[1, 3] | None = Field(
        None, description="number of image channels; none: 1 if the images are gray, 3 otherwise"
    )
    cached: bool = Field(
        True,
        description="read the items once, to a memory-mapped file on disk; false: read each item whenever it is "
        "needed, which requires a Dataset with an index",
    )
    test_fraction: float = Field(
        0.2, gt=0, lt=1, description="fraction of each class used as the test split, if there is no test split"
    )

    weights: str | None = Field(
        None,
        description=".npy file with the weights, 0 or more, with which sampling=ImageWeighted draws the items of "
        "train, or of all; relative to --root or, without it, to the current folder; none: no weights",
    )

    @abstractmethod
    def sources(self, root: Path | None) -> list[Source]:
        """What makes the items of each split. Raises DataError."""

    def facts(self, root: Path | None) -> list[Any]:
        """What tells these data from others, before any is read: JSON, part of the key of the cache."""
        return [self.declared()]

    def declared(self) -> dict[str, Any]:
        """The fields that decide what is read, and not how it is divided."""
        return {name: value for name, value in self.record().items() if name not in _OF_SPLITS}

    def names_of(self, made: Any) -> tuple[str, ...]:
        """The class names that a data set has itself; () if it has none."""
        return _class_names(made)

    def load(self, root: Path | None) -> Splits:
        """The splits. Raises DataError, also for items that are not the same when they are read twice."""
        sources = self.sources(root)
        with lent_generators(0):
            opened = {source.split: source.opened() for source in sources}
            seen = {source.split: _probed(source, opened[source.split]) for source in sources}
            form = self._form(next(iter(seen.values())))
            _tell_transforms(sources, opened)
            _refuse_random(sources, opened, seen, form)
            if streams := [source.title for source in sources if not Source.has_length(opened[source.split])]:
                self._refuse_streams(streams)
            lengths = [len(made) if Source.has_length(made) else None for made in opened.values()]
            facts = [form.policy, self.cached, lengths, _digest(seen, form), *self.facts(root)]
            key = f"items {json.dumps(facts, sort_keys=True, default=str)}"
            cached = cache.fetch(key, lambda folder: self._built(sources, opened, form, folder))
        pixels = None if self.cached else Reread(tuple(sources), form, tuple(cached.index.names))
        title = sources[0].title
        name = title.rpartition(":")[2].rpartition(".")[2]
        splits = divided(self, self.test_fraction, cached, Path(title), name, pixels)
        if self.weights is None:
            return splits
        path = (root or Path()) / self.weights
        return weights.weighted(splits, cached.index, weights.read(path), str(path))

    def _refuse_streams(self, titles: list[str]) -> None:
        """Raises DataError if items without an index shall be read when they are needed."""
        if not self.cached:
            raise DataError([f"{titles[0]} has no index, which --data.cached false requires; leave it out"])

    def _form(self, seen: list[tuple[str, Any]]) -> Form:
        """How images are converted, from the declaration and the first items."""
        images = [pixels_of(pair_of(item, name)[0], name) for name, item in seen]
        channels = self.channels or max(image.shape[2] for image in images)
        height, width = sides(self.size) if self.size else images[0].shape[:2]
        frame = Frame(height, width, self.interpolation)
        return Form(frame, channels, as_they_come=self.size is None, assumed=self.channels is None)

    def _built(self, sources: list[Source], opened: Mapping[str, Any], form: Form, folder: Path) -> cache.Index:
        labels: list[Label] = []
        names: list[str] = []
        titles: list[str] = []
        splits: list[str] = []
        digest = hashlib.sha256(form.policy.encode())
        with cache.appended(folder, form.shape) as add:
            for source in sources:
                made = opened[source.split] if Source.has_length(opened[source.split]) else source.opened()
                total = len(made) if Source.has_length(made) else None
                with bar(f"reading the items of {source.title}", total, "images") as advance:
                    for number, (name, item) in enumerate(source.items(made)):
                        image, target = pair_of(item, name)
                        pixels = form.of(image, name)
                        labels.append(label_of(target, name))
                        if self.cached:
                            add(pixels)
                        digest.update(f"\n{source.split} {labels[-1]} ".encode() + pixels.tobytes())
                        titles.append(name)
                        names.append(f"{source.split}/{number:08}")
                        splits.append(source.split)
                        advance(1)
        if not self.cached:
            (folder / "pixels.npy").unlink()
        classes = self._classes(sources, opened, labels)
        if wrong := wrong_labels(labels, titles, classes):
            raise DataError(first(wrong, 10))
        digest.update("\n".join(("", *classes)).encode())
        if not self.cached:
            digest.update(b"\nread when it is needed")
        return cache.Index(
            digest=digest.hexdigest(),
            policy=form.policy,
            source=f"{sources[0].title}: {len(names):,} images",
            classes=list(classes),
            names=names,
            labels=[list(label) if isinstance(label, tuple) else label for label in labels],
            splits=splits,
            rows=list(range(len(names))),
        )

    def _classes(self, sources: list[Source], opened: Mapping[str, Any], labels: list[Label]) -> tuple[str, ...]:
        if found := self.names_of(opened[sources[0].split]):
            return found
        several = [len(label) for label in labels if isinstance(label, tuple)]
        count = several[0] if several else max(label for label in labels if isinstance(label, int)) + 1
        if not several and count > len(labels):
            raise DataError(
                [f"{sources[0].title}: labels go up to {count - 1:,}; they must be indices of classes, from 0"]
            )
        if not several and count < 2:
            raise DataError([f"{sources[0].title}: all labels are {count - 1}; classification needs two classes"])
        return tuple(map(str, range(count)))


@dataclass(frozen=True)
class Reread:
    """Images that are read from their data sets on each access, uint8 [M, H, W, C]: Pixels of core/loading/images.py.

    A loader worker makes the data sets again, so that they need not be pickled.
    """

    sources: tuple[Source, ...]
    form: Form
    names: tuple[str, ...]
    """split/number of each row"""

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.names), *self.form.shape

    def __len__(self) -> int:
        return len(self.names)

    def _opened(self, split: str) -> tuple[Source, Any]:
        """The data set of a split, opened once in each process: a file cannot be read by two at once."""
        kept = self.__dict__
        if kept.get("_process") != os.getpid():
            kept["_process"] = os.getpid()
            kept["_sets"] = {source.split: (source, source.opened()) for source in self.sources}
        found: tuple[Source, Any] = kept["_sets"][split]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images of these rows (an int, a slice, int64 [n]). Raises ImageLost."""
        if isinstance(rows, int | np.integer):
            return self._read(int(rows))
        chosen = np.arange(len(self))[rows]
        pixels = np.empty((len(chosen), *self.form.shape), np.uint8)
        for place, row in enumerate(chosen.tolist()):
            pixels[place] = self._read(row)
        return pixels

    def crop(self, row: int, choose: Callable[[int, int], Box]) -> np.ndarray:
        """The box returned by `choose(height, width)`, resized to uint8 [H, W, C]. Raises ImageLost."""
        from core.augment.base import resized

        image = self._read(row)
        top, left, tall, wide = choose(*image.shape[:2])
        return resized(image[top : top + tall, left : left + wide], *image.shape[:2])

    def order(self, rows: np.ndarray, size: int, ranks: int) -> Order | None:
        """None: items can be read in any order."""
        return None

    def _read(self, row: int) -> np.ndarray:
        split, _, number = self.names[row].partition("/")
        with lent_generators(0):
            source, made = self._opened(split)
            name = f"{source.title}: item {int(number)}"
            try:
                return self.form.of(pair_of(made[int(number)], name)[0], name)
            except (Exception, SystemExit) as error:  # whatever the code of a user raises
                reason = error.lines[0] if isinstance(error, UserError) else f"{name}: {said(error)}"
                raise ImageLost(f"{reason} (it could be read when training started)") from None


def _probed(source: Source, made: Any) -> list[tuple[str, Any]]:
    found = list(source.some(made))
    if not found:
        raise DataError([f"{source.title} returned a data set without items, for the split {source.split}"])
    return found


def _digest(seen: Mapping[str, list[tuple[str, Any]]], form: Form) -> str:
    """A digest of the items that are looked at before the others."""
    digest = hashlib.sha256()
    for split, items in seen.items():
        for name, item in items:
            image, target = pair_of(item, name)
            digest.update(f"\n{split} {name} {label_of(target, name)} ".encode() + form.of(image, name).tobytes())
    return digest.hexdigest()


def _refuse_random(
    sources: list[Source], opened: Mapping[str, Any], seen: Mapping[str, list[tuple[str, Any]]], form: Form
) -> None:
    """Raises DataError if an item that is read again is another one."""
    for source in sources:
        before = [_digest({source.split: [one]}, form) for one in seen[source.split]]
        for _ in range(math.ceil(PROBED / len(before))):  # of few items, as many comparisons
            made = opened[source.split] if Source.has_length(opened[source.split]) else source.opened()
            for (name, item), known in zip(source.some(made), before, strict=False):
                if _digest({source.split: [(name, item)]}, form) != known:
                    transforms = ", ".join(_transforms(made)) or "what draws random numbers"
                    advice = "leave out of it what is random, and declare that in augment as Transform"
                    raise DataError(
                        [f"{name} is another one when it is read again ({transforms}): images are read once; {advice}"]
                    )


def _tell_transforms(sources: list[Source], opened: Mapping[str, Any]) -> None:
    found = {source.title: _transforms(opened[source.split]) for source in sources}
    for title, transforms in found.items():
        if transforms:
            say(f"{title} has a transform of its own, applied once, before what is declared: {', '.join(transforms)}")


def _transforms(made: Any) -> list[str]:
    """The transforms of a data set and of those that it wraps, each in one line."""
    own = getattr(made, "transform", None)
    inner = [getattr(made, "dataset", None), *(getattr(made, "datasets", None) or ())]
    below = [line for each in inner if each is not None for line in _transforms(each)]
    return list(dict.fromkeys([*([printable(" ".join(str(own).split()))[:200]] if own is not None else []), *below]))


def _class_names(made: Any) -> tuple[str, ...]:
    """`classes` of a data set or of the one that it wraps; of several names of a class, all."""
    found = getattr(made, "classes", None)
    if isinstance(found, list | tuple) and len(found) > 1:
        return tuple(numbered([", ".join(name) if isinstance(name, tuple) else str(name) for name in found]))
    inner = [getattr(made, "dataset", None), *(getattr(made, "datasets", None) or ())]
    return next((names for each in inner if each is not None and (names := _class_names(each))), ())


def times(place: Path) -> Any:
    """Size and time of a file that an argument names, and those of the files in a folder."""
    try:
        if not place.exists():
            return None
    except (OSError, ValueError):
        return None
    with as_data_error(place):
        files = sorted(islice(place.rglob("*"), FILES)) if place.is_dir() else [place]
        return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
