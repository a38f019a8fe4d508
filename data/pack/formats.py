"""The formats of packed sets, each read by a data set of this repository. The same images give the same bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.common import extras
from core.common.errors import DataError
from core.common.files import place, sha256_of
from core.engines.engine import Engine
from data.pack.reduce import SUFFIXES, Place, Reduced, contents
from data.reading.archive import hidden
from data.reading.layout import WHOLE
from data.reading.progress import first, printable
from data.reading.splits import split_of

FILE_IMAGES, FILE_BYTES = 10_000, 256 << 20  # of a shard or a Parquet file, at most
TRANSACTION = 10_000  # images
PAGE = 4096  # bytes of a page of LMDB


@dataclass(frozen=True)
class Chosen:
    """The images of a packed set, in their order.

    rows: int64 [n].  splits, labels: of each.  names: of all images of the source.  classes: in their order.
    """

    found: Reduced
    rows: np.ndarray
    splits: tuple[str, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    classes: tuple[str, ...]

    def key(self, at: int) -> str:
        """The name of an image in the set: its row in the source, and the suffix of its content."""
        row = int(self.rows[at])
        return f"{row:08}{SUFFIXES[self.found.rows['suffix'][row]]}"

    def place(self, at: int) -> Place:
        """Where its content is."""
        return self.found.place(int(self.rows[at]))

    @property
    def bytes(self) -> int:
        """Of all contents."""
        return int(self.found.rows["size"][self.rows].sum())


@dataclass(frozen=True)
class File:
    """A file of a packed set: the key, class, name in the source and content of each image."""

    path: Path
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    places: tuple[Place, ...]
    classes: tuple[str, ...]

    def __str__(self) -> str:
        return f"the file {self.path.name}"


def write_shard(file: File) -> str:
    """Write a tar in the WebDataset format, unless it is there. Returns its SHA-256."""
    return _once(file.path, lambda part: _write_tar(part, file))


def write_parquet(file: File) -> str:
    """Write a Parquet file as Hugging Face datasets has it, unless it is there. Returns its SHA-256."""
    return _once(file.path, lambda part: _write_parquet(part, file))


def _once(path: Path, write: Callable[[Path], None]) -> str:
    if not path.exists():
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")  # another worker may run the same task
        try:
            write(part)
            place(part, path)
        finally:
            part.unlink(missing_ok=True)
    return sha256_of(path)


def _write_tar(part: Path, file: File) -> None:
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as archive:
        for key, label, content in zip(file.keys, file.labels, contents(file.places), strict=True):
            plain = label.strip() == label  # a .cls is read without the whitespace around it
            kind, text = ("cls", label) if plain else ("json", json.dumps({"label": label}))
            stem = key.partition(".")[0]
            for name, body in ((key, content), (f"{stem}.{kind}", text.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))


def _write_parquet(part: Path, file: File) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"image": {"_type": "Image"}, "label": {"names": list(file.classes), "_type": "ClassLabel"}}
    schema = pa.schema([("image", image), ("label", pa.int64())])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    number = {name: at for at, name in enumerate(file.classes)}
    with parquet.ParquetWriter(part, schema, compression="none", use_dictionary=False) as writer:
        every = zip(contents(file.places), file.names, file.labels, strict=True)
        while some := [each for _, each in zip(range(256), every, strict=False)]:
            images = [{"bytes": body, "path": _text(name)} for body, name, _ in some]
            columns = [pa.array(images, image), pa.array([number[label] for _, _, label in some], pa.int64())]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def files_of(chosen: Chosen, folder: Path, name: Callable[[str, int, int], str]) -> Iterator[File]:
    """The files of a set that is divided into several.  name: (split, number, count of this split) -> name."""
    splits = np.array(chosen.splits)
    for split in sorted(set(chosen.splits)):
        members = np.flatnonzero(splits == split)
        sizes = chosen.found.rows["size"][chosen.rows[members]].astype(np.int64)
        parts = _parts(sizes.tolist())
        for number, (start, end) in enumerate(parts):
            some = members[start:end].tolist()
            yield File(
                folder / name(split, number, len(parts)),
                tuple(map(chosen.key, some)),
                tuple(chosen.labels[at] for at in some),
                tuple(chosen.names[chosen.rows[at]] for at in some),
                tuple(map(chosen.place, some)),
                chosen.classes,
            )


def _parts(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) of each file."""
    found, start, together = [], 0, 0
    for at, size in enumerate(sizes):
        if at > start and (at - start >= FILE_IMAGES or together + size > FILE_BYTES):
            found.append((start, at))
            start, together = at, 0
        together += size
    return [*found, (start, len(sizes))]


def shards(chosen: Chosen, folder: Path, engine: Engine) -> list[Path]:
    """Tar shards in the WebDataset format. Returns the files."""
    return _by_engine(chosen, folder, engine, write_shard, lambda split, at, _: f"{_spelled(split)}-{at:06}.tar")


def parquet_files(chosen: Chosen, folder: Path, engine: Engine) -> list[Path]:
    """Parquet files of images and labels, as Hugging Face datasets reads them. Returns the files."""
    (folder / "data").mkdir(exist_ok=True)
    spelled = {"val": "validation"}
    return _by_engine(
        chosen,
        folder,
        engine,
        write_parquet,
        lambda split, at, n: f"data/{spelled.get(split, _spelled(split))}-{at:05}-of-{n:05}.parquet",
    )


def _spelled(split: str) -> str:
    return "train" if split == WHOLE else split  # training divides a set that has no other split


def _by_engine(
    chosen: Chosen, folder: Path, engine: Engine, write: Callable[[File], str], name: Callable[[str, int, int], str]
) -> list[Path]:
    for _ in engine.map(write, files_of(chosen, folder, name)):
        pass
    return [file.path for file in files_of(chosen, folder, name)]


def lmdb_file(chosen: Chosen, folder: Path, engine: Engine) -> list[Path]:
    """An LMDB, the keys of which are those of a folder of class folders. Returns the file."""
    lmdb = extras.library("lmdb", "lmdb", "--to lmdb")
    path, part = folder / "data.mdb", folder / ".data.mdb.part"
    if path.exists():
        return [path]
    part.unlink(missing_ok=True)
    keys = [
        "/".join([*([] if split == WHOLE else [split]), label, chosen.key(at)]).encode()
        for at, (split, label) in enumerate(zip(chosen.splits, chosen.labels, strict=True))
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    room = sum(int(size) // PAGE + 2 for size in chosen.found.rows["size"][chosen.rows].tolist()) * PAGE
    try:
        with lmdb.open(str(part), subdir=False, lock=False, map_size=room + (room >> 3) + (1 << 24)) as opened:
            bodies = contents(chosen.place(at) for at in order)
            for start in range(0, len(order), TRANSACTION):
                with opened.begin(write=True) as put:
                    for at in order[start : start + TRANSACTION]:
                        put.put(keys[at], next(bodies), append=True)
    except lmdb.Error as error:
        raise OSError(_errno(error), str(error)) from None
    place(part, path)
    return [path]


def _errno(error: Exception) -> int:
    return next((code for code in (28, 122) if os.strerror(code) in str(error)), 5)


def hdf5_file(chosen: Chosen, folder: Path, engine: Engine) -> list[Path]:
    """An HDF5 file with the contents of image files, labels, names in the source, and classes. Returns the file."""
    h5py = extras.library("h5py", "hdf5", "--to hdf5")
    path, part = folder / "images.h5", folder / ".images.h5.part"
    if path.exists():
        return [path]
    number = {name: at for at, name in enumerate(chosen.classes)}
    splits = np.array(chosen.splits)
    with h5py.File(part, "w") as file:
        file.create_dataset("classes", data=list(chosen.classes), dtype=h5py.string_dtype())
        for split in sorted(set(chosen.splits)):
            group = file if split == WHOLE else file.create_group(split)
            members = np.flatnonzero(splits == split).tolist()
            images = group.create_dataset("images", (len(members),), h5py.vlen_dtype(np.uint8))
            for at, body in enumerate(contents(map(chosen.place, members))):
                images[at] = np.frombuffer(body, np.uint8)
            group["labels"] = np.array([number[chosen.labels[at]] for at in members], np.int64)
            names = [_text(chosen.names[chosen.rows[at]]) for at in members]
            group.create_dataset("names", data=names, dtype=h5py.string_dtype())
    place(part, path)
    return [path]


@dataclass(frozen=True)
class Format:
    """data: class of the data set that reads it.  root: what it is given, relative to the packed set.  library: module
    and extra that it needs."""

    write: Callable[[Chosen, Path, Engine], list[Path]]
    data: str
    root: str = "."
    library: tuple[str, str] | None = None


FORMATS = {
    "shards": Format(shards, "WebShards"),
    "lmdb": Format(lmdb_file, "ImageFolder", library=("lmdb", "lmdb")),
    "hdf5": Format(hdf5_file, "Hdf5", "images.h5", ("h5py", "hdf5")),
    "parquet": Format(parquet_files, "HuggingFace"),
}


def refuse_classes(to: str, classes: Sequence[str]) -> None:
    """Raises DataError for class names that a format cannot hold."""
    wrong = [f"the class {name!a} is not UTF-8; rename it" for name in classes if not _is_utf8(name)]
    if to == "lmdb":  # its keys are paths, as those of a folder
        odd = [name for name in classes if "/" in name or name in ("", ".", "..") or hidden(name) or split_of(name)]
        wrong += [f"the class {printable(name)} cannot be a folder; use --to shards, hdf5 or parquet" for name in odd]
        long = [name for name in classes if len(name.encode("utf-8", "surrogateescape")) > 400]
        wrong += [f"the class {printable(name)[:40]}... is too long for a key of LMDB; rename it" for name in long]
    if wrong:
        raise DataError(first(wrong))


def _is_utf8(name: str) -> bool:
    return not any("\udc80" <= sign <= "\udcff" for sign in name)


def digest_of(folder: Path, files: Sequence[Path]) -> str:
    """A digest of the names and contents of the files of a set."""
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(f"{sha256_of(path)} {path.relative_to(folder).as_posix()}\n".encode())
    return whole.hexdigest()
