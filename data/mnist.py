"""MNIST (LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998) and Fashion-MNIST (Xiao et al.,
2017): IDX files, gzipped or not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from core.common.errors import DataError
from core.common.files import sha256_of
from core.common.paths import store
from core.loading.images import Dataset, Splits
from data.reading import archive, cache, disk
from data.reading.download import download
from data.reading.progress import printable

SIDE = 28
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class Official:
    """An official dataset.

    folder: in the store, and below $LABBOOK_MNIST_URL.  mirrors: URLs of folders with FILES, gzipped, tried in turn.
    sha256: of the gzipped files.  counts: number of train and test images.  begins: the first labels of train.
    """

    title: str
    folder: str
    mirrors: tuple[str, ...]
    sha256: tuple[str, str, str, str]
    classes: tuple[str, ...]
    begins: tuple[int, ...]
    counts: tuple[int, int] = (60_000, 10_000)


MNIST = Official(
    title="MNIST",
    folder="mnist",
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    sha256=(
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    classes=tuple("0123456789"),
    begins=(5, 0, 4, 1, 9, 2, 1, 3),
)
FASHION = Official(
    title="Fashion-MNIST",
    folder="fashion-mnist",
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
    ),
    sha256=(
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    begins=(9, 0, 0, 3, 0, 2, 7, 2),
)


class _Idx(Dataset):
    channels: Literal[1, 3] = Field(
        1, description="number of image channels; 3: the gray channel repeated, for networks that expect color images"
    )


class Mnist(_Idx):
    """MNIST: 60,000 training and 10,000 test images of digits, 28x28, grayscale; downloaded (12 MB) without --root.

    --root: a folder with the four IDX files, gzipped or not, or the root folder of torchvision's MNIST.
    """

    def load(self, root: Path | None) -> Splits:
        return _load(self, MNIST, root)


class FashionMnist(_Idx):
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothing, 28x28, grayscale; downloaded (31 MB) without
    --root, which is as for Mnist."""

    def load(self, root: Path | None) -> Splits:
        return _load(self, FASHION, root)


def _load(dataset: _Idx, official: Official, root: Path | None) -> Splits:
    paths = _fetched(official) if root is None else _within(official, root)
    policy = f"IDX 1: as stored, {SIDE} x {SIDE} x {dataset.channels}"

    def build(folder: Path) -> cache.Index:
        if root is None:
            _verify(official, paths)
        return _built(official, paths, dataset.channels, policy, folder)

    key = " ".join(archive.fingerprint(path) for path in paths)
    cached = cache.fetch(f"{official.title} {policy} {key}", build)
    train, val = dataset.divide(cached.images("train"))
    test, index = cached.images("test"), cached.index
    return Splits(official.title, official.classes, train, val, test, index.digest, cached.source)


def _fetched(official: Official) -> list[Path]:
    """The four files in the store."""
    paths = [store() / official.folder / f"{name}.gz" for name in FILES]
    own = os.environ.get("LABBOOK_MNIST_URL")
    mirrors = (f"{own.rstrip('/')}/{official.folder}",) if own else official.mirrors
    for path, sha256 in zip(paths, official.sha256, strict=True):
        _from_any(mirrors, path, sha256)
    return paths


def _from_any(mirrors: tuple[str, ...], path: Path, sha256: str) -> None:
    for mirror in mirrors:
        try:
            return download(f"{mirror}/{path.name}", path, sha256)
        except DataError:
            if mirror == mirrors[-1]:
                raise


def _verify(official: Official, paths: list[Path]) -> None:
    wrong = [
        f"{path} is not the official file: sha256 expected {sha256}, got {found}"
        for path, sha256 in zip(paths, official.sha256, strict=True)
        if (found := sha256_of(path)) != sha256
    ]
    if wrong:
        raise DataError(
            [*wrong, "delete it to download it again on the next start; or use other files with --root PATH"]
        )


def _within(official: Official, root: Path) -> list[Path]:
    """The four files in a folder, or in the subfolder where torchvision stores them."""
    below = (root, root / "raw", root / official.title.replace("-", "") / "raw")
    folder = next((place for place in below if _named(place, FILES[0])), root)
    found = [_named(folder, name) for name in FILES]
    if lacking := [name for name, path in zip(FILES, found, strict=True) if path is None]:
        expected = f"expected: a folder with {', '.join(FILES)}, or these with .gz"
        raise DataError([f"{root} does not contain {', '.join(lacking)}", expected])
    return [path for path in found if path is not None]


def _named(folder: Path, name: str) -> Path | None:
    """The path of a file in a folder, or None; some programs replace the hyphen before "idx" by a dot."""
    stem, _, kind = name.rpartition("-idx")
    names = (name, f"{name}.gz", f"{stem}.idx{kind}", f"{stem}.idx{kind}.gz")
    return next((folder / one for one in names if (folder / one).is_file()), None)


def _built(official: Official, paths: list[Path], channels: int, policy: str, folder: Path) -> cache.Index:
    train, test = official.counts
    shapes = ((train, SIDE, SIDE), (train,), (test, SIDE, SIDE), (test,))
    arrays, wrong = [], []
    for path, shape in zip(paths, shapes, strict=True):
        try:
            arrays.append(read_idx(path, shape))
        except DataError as error:
            wrong += error.lines
    if wrong:
        raise DataError([*wrong, f"download these files again, or omit --root: {official.title} is then downloaded"])
    _refuse_other_labels(official, paths, arrays)
    pixels, labels = np.concatenate(arrays[::2]), np.concatenate(arrays[1::2])
    digest = hashlib.sha256(f"{policy}\n{train} {test}\n".encode() + pixels.tobytes() + labels.tobytes())
    with cache.pixel_file(folder, (train + test, SIDE, SIDE, channels)) as put:
        put(0, np.repeat(pixels[..., None], channels, axis=3))
    splits = ["train"] * train + ["test"] * test
    return cache.Index(
        digest=digest.hexdigest(),
        policy=policy,
        source=f"{official.title}: {train + test:,} images",
        classes=list(official.classes),
        names=[f"{split}/{row:05d}" for row, split in enumerate(splits)],
        labels=labels.tolist(),
        splits=splits,
        rows=list(range(train + test)),
    )


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an array, uint8 of this shape, from an IDX file (LeCun's format), gzipped or not.

    Never reads more bytes than the shape requires. Raises DataError if the file is damaged, is not an IDX file or has
    another shape.
    """
    with disk.as_data_error(path), path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    header = bytes((0, 0, 8, len(shape))) + b"".join(side.to_bytes(4, "big") for side in shape)
    size = len(header) + int(np.prod(shape))
    raw = _guarded(path, lambda: _opened(path, packed, size + 1))
    if raw[:4] != header[:4]:
        raise _wrong(
            path, f"is not an IDX file: it starts with {raw[:4].hex() or 'nothing'}, expected {header[:4].hex()}"
        )
    if raw[4 : len(header)] != header[4:]:
        sides = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, len(header), 4)]
        got, expected = (" x ".join(f"{n:,}" for n in each) for each in (sides, shape))
        raise _wrong(path, f"has the shape {got}, expected {expected}")
    if len(raw) != size:
        raise _wrong(
            path,
            f"is truncated: {len(raw):,} of {size:,} bytes" if len(raw) < size else "has extra bytes after its data",
        )
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape)


def _opened(path: Path, packed: bool, most: int) -> bytes:
    import gzip

    with gzip.open(path) if packed else path.open("rb") as stream:
        return stream.read(most)


def _guarded(path: Path, read: Callable[[], bytes]) -> bytes:
    import zlib

    try:
        return read()
    except (OSError, EOFError, zlib.error) as error:
        raise _wrong(path, f"is damaged or incomplete ({printable(str(error))})") from None


def _refuse_other_labels(official: Official, paths: list[Path], arrays: list[np.ndarray]) -> None:
    classes, known = len(official.classes), official.begins
    for path, labels in zip(paths[1::2], arrays[1::2], strict=True):
        if labels.max() >= classes:
            raise _wrong(
                path,
                f"has the label {labels.max()} at index {int(labels.argmax()):,}; labels must be 0 to {classes - 1}",
            )
    if (found := tuple(arrays[1][: len(known)].tolist())) != known:
        reason = f"starts with the labels {found}, but {official.title} with {known}: is it another dataset?"
        raise _wrong(paths[1], reason)


def _wrong(path: Path, what: str) -> DataError:
    return DataError([f"{path} {what}"])
