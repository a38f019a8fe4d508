"""WebShards: your own images in tar shards in the WebDataset format, read by random access.

The library webdataset reads shards sequentially, in an order that depends on generator states: a resumed epoch would
have to be read from its first sample, and the order would change with the number of workers. Here the order is computed
from (seed, epoch), and each image is read at its offset in the shard.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from core import randomness as K
from core.common.errors import DataError
from core.loading.images import Order, Splits
from data.folder import OwnImages
from data.reading import archive, cache, ingest, labels, layout, packed
from data.reading.decode import SUFFIXES
from data.reading.disk import as_data_error
from data.reading.files import Files
from data.reading.listing import Listing
from data.reading.progress import bar, first, printable, say
from data.reading.splits import resembles
from data.reading.tree import Tree

EXPECTED = (
    "expected: a folder of uncompressed *.tar files, each with pairs of key.jpg (png, tif, ...) and key.cls or key.json"
)
IMAGES, LABELS = tuple(sorted(suffix[1:] for suffix in SUFFIXES)), ("cls", "json")

Members = dict[archive.Member, archive.Content]


class WebShards(OwnImages):
    """A folder of tar shards in the WebDataset format, given with --root; for datasets too large to cache on disk.

    A sample is key.jpg (png, tif, ...) with key.cls, which contains an integer or a class name, or with a field of
    key.json. Only an index is cached: images are read from the shards during training. Each epoch shuffles the shards,
    then the images within a window of `window` positions; a resumed epoch skips the samples that it has processed.
    Shards whose names match val and test, in any case, are those splits; missing splits are created.
    """

    field: str = Field(
        "label", min_length=1, description="field of key.json with the label, if a sample has no key.cls"
    )
    val: str = Field("val*", min_length=1, description="file name pattern (* and ?) of the validation shards")
    test: str = Field("test*", min_length=1, description="file name pattern (* and ?) of the test shards")
    window: int = Field(
        10_000, ge=1, description="size of the shuffle window, in images; smaller values read more sequentially"
    )
    checked: bool = Field(
        True,
        description="decode every image once before training, to find damaged ones; false: read only the tar headers, "
        "for very large datasets",
    )

    def check(self) -> None:
        super().check()
        if self.skip_unreadable and not self.checked:
            raise ValueError("skip_unreadable requires checked: unreadable images are found when they are decoded")

    def load(self, root: Path | None) -> Splits:
        if root is None:
            raise DataError(["WebShards needs the path of your folder of shards: add --root PATH", EXPECTED])
        shards = _shards(root)
        with as_data_error(root):
            seen = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in shards]
        recipe = self.recipe(skip_unreadable=self.skip_unreadable, keep=False)
        fields = [seen, recipe.policy, self.field, self.val, self.test, self.skip_unreadable, self.checked]
        key = f"{layout.VERSION} shards {root.resolve()} {json.dumps(fields)}"
        cached = cache.fetch(key, lambda folder: self._index(root, shards, recipe, folder))
        return self.splits(cached, root, Shards.of(root, cached.index, recipe, self.window))

    def _index(self, root: Path, shards: Sequence[Path], recipe: ingest.Recipe, folder: Path) -> cache.Index:
        samples, others, wrong = self._surveyed(root, shards)
        classes, mixed = labels.class_names(sample.label for sample in samples)
        splits = tuple(self._split(sample.shard) for sample in samples)
        wrong += self._misnamed(shards)
        if not wrong and "train" not in splits:
            wrong = [f"no samples for the train split: all shards are empty or match {self.val} or {self.test}"]
        if not wrong and len(classes) < 2:
            wrong = [f"{classes[0]} is the only class; classification requires at least two"]
        if wrong or mixed:
            raise DataError([f"{root}: {line}" for line in first(wrong + mixed)] + [EXPECTED])
        place = {name: label for label, name in enumerate(classes)}
        arranged = layout.Layout(classes, splits, tuple(place[sample.label] for sample in samples))
        tree = _tree(root, samples, others)
        if others:
            shown = ", ".join(first([printable(name) for name in others], 10))
            say(f"{root.name}: {len(samples):,} samples; {len(others):,} other files left out: {shown}")
        if self.checked:
            index = ingest.build(tree, arranged, recipe, folder, _contents(root, samples))
        else:
            index = _unread(tree, arranged, recipe)
        return packed.marked(
            replace(index, rows=list(range(len(index.rows))), places=[list(samples[row].place) for row in index.rows])
        )

    def listed(self, root: Path, refuse: archive.Refuse) -> Listing:
        shards = _shards(root)
        samples, others, wrong = self._surveyed(root, shards)
        wrong += [*self._misnamed(shards), *labels.class_names(sample.label for sample in samples)[1]]
        places = tuple((self._split(sample.shard), sample.label) for sample in samples)
        refused = tuple(f"{root}: {line}" for line in wrong)
        return Listing(
            type(self).__name__, _tree(root, samples, others), places, refused, lambda: _contents(root, samples)
        )

    def _surveyed(self, root: Path, shards: Sequence[Path]) -> tuple[list[Sample], list[str], list[str]]:
        """(samples of all shards, names of files that belong to none, error lines)"""
        samples: list[Sample] = []
        others: list[str] = []
        wrong: list[str] = []
        with bar(f"listing the samples of {len(shards):,} shards of {root.name}", len(shards), "shards") as advance:
            for path in shards:
                found, left, mistakes = survey(path, self.field)
                samples += found
                others += (f"{path.name}/{name}" for name in left)
                wrong += mistakes
                advance(1)
        return samples, others, wrong

    def _split(self, shard: str) -> str:
        named = {"val": self.val, "test": self.test}
        matching = (s for s, names in named.items() if fnmatch.fnmatchcase(shard.casefold(), names.casefold()))
        return next(matching, "train")

    def _misnamed(self, shards: Sequence[Path]) -> Iterator[str]:
        """A line for each shard that would be trained on, but has the name of another split whose pattern is the
        default."""
        for name in (path.name for path in shards):
            split = resembles(name.removesuffix(".tar"))
            default = split in ("val", "test") and getattr(self, split) == type(self).model_fields[split].default
            if default and self._split(name) == "train":
                yield f"{printable(name)} looks like the {split} split; set --data.{split} to a pattern for its shards"


def _shards(root: Path) -> list[Path]:
    with as_data_error(root):
        shards = sorted(path for path in root.iterdir() if fnmatch.fnmatchcase(path.name, "[!.]*.tar"))
    if not shards:
        raise DataError([f"{root} contains no *.tar files", EXPECTED])
    return shards


def _tree(root: Path, samples: Sequence[Sample], others: Sequence[str]) -> Tree:
    return Tree(root, "", tuple(f"{sample.shard}/{sample.name}" for sample in samples), frozenset(), tuple(others))


@dataclass(frozen=True)
class Sample:
    """A labeled image in a shard.  name: of the file in the shard.  place: (offset, size) of its content, in bytes."""

    shard: str
    name: str
    place: tuple[int, int]
    label: str


def survey(path: Path, field: str) -> tuple[list[Sample], list[str], list[str]]:
    """(samples of a shard in stored order, names of the files that belong to none, a line for each error in it). Images
    are not read.

    field: field of key.json with the label, for samples without key.cls.
    """
    samples: dict[str, Sample] = {}
    others: list[str] = []
    wrong: list[str] = []
    try:
        for whole, group in itertools.groupby(_files(path, others), lambda pair: _key(pair[0].name)):
            grouped: dict[str, Members] = {}
            for member, content in group:
                grouped.setdefault(_stem(member.name), {})[member] = content
            for key, files in grouped.items():
                names = {_kind(member): member.name for member in files}
                if not _has_both(files) and (not _is_sample(files) or (key != whole and whole in grouped)):
                    others += names.values()
                    continue
                try:
                    if key in samples:
                        raise ValueError("the key occurs twice; the files of a sample must be adjacent in the shard")
                    samples[key] = _sample(path, files, field)
                    others += (name for kind, name in names.items() if kind not in (*IMAGES, *LABELS))
                except (ValueError, RecursionError) as error:
                    wrong.append(f"{path.name}/{printable(key)}: {error}")
    except DataError as error:
        wrong += error.lines
    return list(samples.values()), others, wrong


def _files(path: Path, others: list[str]) -> Iterator[tuple[archive.Member, archive.Content]]:
    for member, content in archive.members(path, lambda member: _kind(member) in LABELS):
        if member.folder:
            continue
        if archive.hidden(member.name):
            others.append(member.name)
            continue
        if member.offset is None:
            raise DataError([f"{path} is not an uncompressed tar, which random access requires; decompress it"])
        yield member, content


def _key(name: str) -> str:
    """The key as WebDataset defines it: the name up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _stem(name: str) -> str:
    """The name up to the last dot: it tells apart the samples whose names contain dots, and what is beside a sample,
    such as key.left.png beside key.jpg."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + (file.rpartition(".")[0] or file)


def _kind(member: archive.Member) -> str:
    return member.name.rpartition("/")[2].rpartition(".")[2].lower()


def _is_sample(files: Members) -> bool:
    """Whether these files are meant to be a sample: an image or a label, but not a JSON file alone."""
    kinds = {_kind(member) for member in files}
    return bool(kinds & {*IMAGES, "cls"}) or ("json" in kinds and len(kinds) > 1)


def _has_both(files: Members) -> bool:
    kinds = {_kind(member) for member in files}
    return not kinds.isdisjoint(IMAGES) and not kinds.isdisjoint(LABELS)


def _sample(path: Path, files: Members, field: str) -> Sample:
    """The sample of the files of one key. Raises ValueError."""
    images = [member for member in files if _kind(member) in IMAGES]
    if len(images) != 1:
        kinds = ", ".join(sorted(printable(_kind(member)) for member in files))
        raise ValueError(f"{len(images)} images; a sample must have exactly one (its files are {kinds})")
    image = images[0]
    assert image.offset is not None
    by_kind = {_kind(member): content for member, content in files.items()}
    return Sample(path.name, image.name, (image.offset, image.size), _label(by_kind, field))


def _label(by_kind: dict[str, archive.Content], field: str) -> str:
    """The label of a sample. Raises ValueError."""
    for kind, content in by_kind.items():
        if kind == "cls" and isinstance(content, bytes) and (text := content.decode().strip()):
            return text
    content = by_kind.get("json")
    found = json.loads(content) if isinstance(content, bytes) else None
    value = found.get(field) if isinstance(found, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError(f"no label: neither .cls nor a field {field} of .json with an integer or a class name")
    return str(value)


def _contents(root: Path, samples: Sequence[Sample]) -> Iterator[tuple[int, ingest.Stored]]:
    """(row, content of the image file), in stored order."""
    for shard, rows in itertools.groupby(range(len(samples)), lambda row: samples[row].shard):
        with as_data_error(root / shard), (root / shard).open("rb") as stream:
            for row in rows:
                offset, size = samples[row].place
                stream.seek(offset)
                yield row, stream.read(size)


def _unread(tree: Tree, arranged: layout.Layout, recipe: ingest.Recipe) -> cache.Index:
    """The index of images that have not been decoded; its digest covers their names and offsets, not their contents."""
    policy = f"{recipe.policy}; not checked"
    return cache.Index(
        digest=hashlib.sha256("\n".join((policy, *tree.names)).encode("utf-8", "surrogateescape")).hexdigest(),
        policy=policy,
        source=", ".join([f"{tree.path.name}: {len(tree.names):,} images", *ingest.notes(tree), "not checked"]),
        classes=list(arranged.classes),
        names=list(tree.names),
        labels=list(arranged.labels),
        splits=list(arranged.splits),
        rows=list(range(len(tree.names))),
    )


@dataclass(frozen=True)
class Shards(Files):
    """Images in tar shards, with names shard/member.

    places: int64 [M, 2], offset and size of each image in bytes.  shard: int64 [M], index of its shard.  window: see
    WebShards.
    """

    lost: ClassVar[str] = (
        "its shard has changed since training started, or was never checked; restore or repair the shard"
    )

    places: np.ndarray
    shard: np.ndarray
    window: int

    @classmethod
    def of(cls, root: Path, index: cache.Index, recipe: ingest.Recipe, window: int) -> Shards:
        """The images of an index."""
        _, shard = np.unique([name.partition("/")[0] for name in index.names], return_inverse=True)
        places = np.array(index.places, dtype=np.int64)
        return cls(root, tuple(index.names), recipe.frame, recipe.conversion, places, shard, window)

    def content(self, row: int) -> bytes:
        """The content of an image file. Raises OSError."""
        offset, size = self.places[row].tolist()
        with (self.root / self.names[row].partition("/")[0]).open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def order(self, rows: np.ndarray, size: int, ranks: int) -> Order:
        """A function (seed, epoch) -> order of the samples: shards are shuffled, divided into contiguous parts of equal
        length for the ranks, and images are shuffled within `window` positions."""
        return partial(_order, self.shard[rows], self.window, size, ranks)


def _order(shard: np.ndarray, window: int, size: int, ranks: int, seed: int, epoch: int) -> np.ndarray:
    """Positions in the order of the epoch, int64 [N].  shard: index of the shard of each position, int64 [N]."""
    # the samples of the incomplete batch are random: those at the end of the last shard might never be used
    dropped = K.permutation(seed, epoch, len(shard), "dropped")[: len(shard) % size]
    turn = np.argsort(K.permutation(seed, epoch, int(shard.max()) + 1, "shards"))
    in_sequence = np.argsort(turn[shard], kind="stable")
    in_sequence = in_sequence[~np.isin(in_sequence, dropped)]
    ahead = window * K.uniform(K.sample_keys(seed, epoch, np.arange(len(shard))), "window").astype(np.float64)
    runs = [run[np.argsort(np.arange(len(run)) + ahead[run])] for run in np.split(in_sequence, ranks)]
    batches = np.stack([run.reshape(-1, size // ranks) for run in runs], axis=1)
    return np.concatenate([batches.reshape(-1), dropped])
