"""CIFAR-10 and CIFAR-100 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from core.common.errors import DataError
from core.common.files import sha256_of
from core.common.paths import store
from core.loading.images import Dataset, Splits
from data.reading import archive, cache, ingest, layout, pickles, tree
from data.reading.download import download
from data.reading.frame import Frame

URL = "https://www.cs.toronto.edu/~kriz"  # $LABBOOK_CIFAR_URL names a mirror: the folder that holds the archives
SIZE = 32


@dataclass(frozen=True)
class Official:
    """An official dataset.  train, test, meta: members of `folder` in the archive `file`."""

    title: str
    classes: int
    file: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    names: bytes


TEN = Official(
    title="CIFAR-10",
    classes=10,
    file="cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    folder="cifar-10-batches-py",
    train=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    test="test_batch",
    meta="batches.meta",
    labels=b"labels",
    names=b"label_names",
)
HUNDRED = Official(
    title="CIFAR-100",
    classes=100,
    file="cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    labels=b"fine_labels",
    names=b"fine_label_names",
)


class Cifar(Dataset, ABC):
    """Base class of CIFAR-10 and CIFAR-100."""

    only: tuple[str, ...] = Field((), description="use only these classes, e.g. cat,dog; none: all classes")

    @abstractmethod
    def official(self) -> Official:
        """The official dataset: its archive, checksum and class count."""

    def load(self, root: Path | None) -> Splits:
        splits = _load(self, self.official(), root)
        return splits.keeping(self.only) if self.only else splits


class Cifar10(Cifar):
    """CIFAR-10: 50,000 training and 10,000 test images, 32x32, color, 10 classes; downloaded (170 MB) without --root.

    --root: the official archive, the folder that contains it, its unpacked batches, or image files in train/<class>/
    and test/<class>/, as a folder, tar or zip.
    """

    def official(self) -> Official:
        return TEN


class Cifar100(Cifar):
    """CIFAR-100: 50,000 training and 10,000 test images, 32x32, color, 100 (fine) classes; --root as for Cifar10."""

    def official(self) -> Official:
        return HUNDRED


def _load(dataset: Dataset, official: Official, root: Path | None) -> Splits:
    path = _fetched(official) if root is None else _within(official, root)
    recipe = ingest.Recipe(Frame(SIZE, SIZE), exact=official.title)

    def build(folder: Path) -> cache.Index:
        if root is None:
            _verify(official, path)
        found = tree.scan(path)
        if names := _batch_names(official, found):
            return _from_batches(official, path, names, folder)
        if not found.names:
            line = f"{path} contains neither images nor {official.folder}/{official.test}"
            raise DataError([line, _expected(official)])
        arranged = layout.arrange(found)
        _refuse_other_layout(official, path, arranged)
        return ingest.build(found, arranged, recipe, folder)

    cached = cache.fetch(f"{archive.fingerprint(path)} {official.title} {pickles.POLICY} {recipe.policy}", build)
    index = cached.index
    train, val = dataset.divide(cached.images("train"))
    name = official.title if index.policy == pickles.POLICY else f"{official.title} ({_formats(index.names)})"
    return Splits(name, tuple(index.classes), train, val, cached.images("test"), index.digest, cached.source)


def _fetched(official: Official) -> Path:
    target = store() / official.file
    url = os.environ.get("LABBOOK_CIFAR_URL") or URL
    download(f"{url.rstrip('/')}/{official.file}", target, official.sha256)
    return target


def _verify(official: Official, path: Path) -> None:
    if (found := sha256_of(path)) != official.sha256:
        line = f"{path} is not the official archive: sha256 expected {official.sha256}, got {found}"
        raise DataError([line, "delete it to download it again on the next start; or use other data with --root PATH"])


def _within(official: Official, root: Path) -> Path:
    """The archive or folder of batches in `root`, if there is one; otherwise `root`."""
    if (root / official.file).is_file():
        return root / official.file
    return root / official.folder if (root / official.folder).is_dir() else root


def _batch_names(official: Official, found: tree.Tree) -> dict[str, str]:
    """Batch -> member name, for the official files that exist."""
    wanted = (*official.train, official.test, official.meta)
    places = {f"{folder}{name}": name for folder in ("", f"{official.folder}/") for name in wanted}
    return {places[name]: name for name in found.others if name in places}


def _from_batches(official: Official, path: Path, names: dict[str, str], folder: Path) -> cache.Index:
    if missing := [name for name in (*official.train, official.test, official.meta) if name not in names]:
        raise DataError([f"{path} does not contain {', '.join(missing)}", _expected(official)])
    classes, read = pickles.read(path, names, official.meta, official.names, official.labels)
    if len(classes) != official.classes:
        raise DataError(
            [f"{path}: {official.meta} lists {len(classes)} classes, but {official.title} has {official.classes}"]
        )
    count = sum(len(batch.labels) for batch in read.values())
    splits: list[str] = []
    labels: list[int] = []
    digest = hashlib.sha256("\n".join((pickles.POLICY, *classes)).encode())
    with cache.pixel_file(folder, (count, SIZE, SIZE, 3)) as put:
        for name in (*official.train, official.test):
            batch, split = read[name], "test" if name == official.test else "train"
            put(len(labels), batch.pixels)
            digest.update(f"\n{split} {len(batch.labels)}\n".encode() + bytes(batch.labels) + batch.pixels.tobytes())
            labels += batch.labels
            splits += [split] * len(batch.labels)
    return cache.Index(
        digest=digest.hexdigest(),
        policy=pickles.POLICY,
        source=f"{path.name}: {count:,} images",
        classes=classes,
        names=[f"{split}/{row:05d}" for row, split in enumerate(splits)],
        labels=labels,
        splits=splits,
        rows=list(range(count)),
    )


def _refuse_other_layout(official: Official, path: Path, arranged: layout.Layout) -> None:
    wrong = []
    if set(arranged.splits) != {"train", "test"}:
        found = ", ".join(sorted(set(arranged.splits) - {layout.WHOLE})) or "no splits"
        wrong.append(f"{path} has {found}, but {official.title} has train and test")
    if len(arranged.classes) != official.classes:
        wrong.append(f"{path} has {len(arranged.classes)} classes, but {official.title} has {official.classes}")
    if wrong:
        raise DataError([*wrong, "for your own images, use --data ImageFolder"])


def _formats(names: list[str]) -> str:
    """The file formats, for the name of the dataset: JPEG compression lowers accuracy a little."""
    suffixes = {name.rpartition(".")[2].lower() for name in names}
    return "JPEG" if suffixes <= {"jpg", "jpeg", "jfif"} else "/".join(sorted(suffixes)).upper()


def _expected(official: Official) -> str:
    return (
        f"expected: {official.file}, a folder that contains it, its unpacked {official.folder}/, "
        "or train/<class>/*.png and test/<class>/*.png as a folder, tar or zip"
    )
