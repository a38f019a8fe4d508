"""The files of a folder, a tar, a zip or an LMDB as one stream.

Contents go to memory only: nothing is ever written under a name that an archive chose. Archives that hold `..`,
absolute paths, links, devices or more than they should are refused, whether or not the member would have been used.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from core.common.errors import DataError
from data.reading import extras
from data.reading.disk import as_data_error
from data.reading.terminal import printable

MEMBER_LIMIT = 256 * 2**20  # bytes of one file; the largest official one, CIFAR-100's train, has 155 MB
TOTAL_LIMIT = 2 * 2**30  # bytes of all files, with their headers, of a small archive
RATIO_LIMIT = 100  # and of a larger one: so many times its own size. Photographs barely shrink; bombs shrink 1000 times
HEADER_BYTES = 512
LMDB_FILE, LMDB_MAGIC = "data.mdb", b"\xde\xc0\xef\xbe"
_CHUNK = 1 << 20

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "lzma", b"\x5d\x00\x00": "lzma"}


@dataclass(frozen=True)
class Member:
    """name: relative, with `/`.  size: bytes.  mtime_ns: only in a folder.  offset: where its content begins, only in a
    tar that is not compressed.  Hidden folders are not descended into."""

    name: str
    size: int
    mtime_ns: int = 0
    folder: bool = False
    offset: int | None = None


Content = bytes | Path | None
Wanted = Callable[[Member], bool]
Refuse = Callable[[DataError], None]


def nothing(member: Member) -> bool:
    """Wants no member's content: only the names."""
    return False


def at_once(error: DataError) -> None:
    """Refuses a folder for the first thing in it that cannot be taken."""
    raise error


def members(path: Path, wanted: Wanted = nothing, refuse: Refuse = at_once) -> Iterator[tuple[Member, Content]]:
    """(member, content) of all files and folders, in stored order; a folder's in the order of names.

    content: the bytes of a wanted member of an archive; the path of a wanted file in a folder; else None.
    refuse: told what in a folder cannot be taken; where it returns, the rest follows, and that file has no content.
    Raises DataError for what is missing, unsafe, too large or damaged.
    """
    path = stored(path)
    if path.is_dir():
        return _folder(path, wanted, refuse)
    kind = _kind(path)
    readers = {"zip": _zip, "lmdb": _lmdb}
    return _guarded(path, readers[kind](path, wanted) if kind in readers else _tar(path, kind, wanted))


def stored(path: Path) -> Path:
    """The file or folder that holds everything: of an LMDB, which is mostly a folder, its one file."""
    return path / LMDB_FILE if (path / LMDB_FILE).is_file() else path


def hidden(name: str) -> bool:
    """Whether a component of the name begins with a dot or is a Mac's __MACOSX."""
    odd = name.startswith(".") or "/." in name or "__MACOSX" in name  # nearly never, and asked of every file
    return odd and any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def fingerprint(path: Path) -> str:
    """Changes whenever the source may have; reads no contents. Raises DataError."""
    path = stored(path)
    digest = hashlib.sha256(os.fsencode(path.resolve()))
    if path.is_dir():
        for member, _ in members(path):
            line = f"\n{member.size} {member.mtime_ns} {member.folder} {member.name}"
            digest.update(line.encode("utf-8", "surrogateescape"))
    else:
        with as_data_error(path):
            status = path.stat()
        digest.update(f"\n{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _folder(root: Path, wanted: Wanted, refuse: Refuse) -> Iterator[tuple[Member, Content]]:
    real = root.resolve()
    for at, folders, files in os.walk(root, onerror=lambda error: refuse(_unlisted(error))):
        folders.sort()
        below, inside = Path(at), Path(at).relative_to(root).as_posix()
        inside = "" if inside == "." else f"{inside}/"
        for name in folders:
            if (below / name).is_symlink() and not hidden(name):
                link = printable(str(below / name))
                refuse(DataError([f"{link} is a link to a folder; put the folder itself there"]))
                continue
            yield Member(inside + name, 0, 0, folder=True), None
        folders[:] = [name for name in folders if not hidden(name)]
        for name in sorted(files):
            try:
                found: tuple[Member, Content] = _file(below, name, inside + name, root, real, wanted)
            except DataError as error:
                refuse(error)
                found = Member(inside + name, 0), None
            yield found


def _file(below: Path, file: str, name: str, root: Path, real: Path, wanted: Wanted) -> tuple[Member, Content]:
    try:
        status = os.lstat(f"{below}/{file}")  # a Path for each would take longer than the files
    except OSError as error:
        raise DataError([f"{printable(str(below / file))}: {error.strerror}"]) from None
    if stat.S_ISLNK(status.st_mode) and (target := (below / file).resolve()).is_relative_to(real) and target.exists():
        status = target.stat()
    member = Member(name, status.st_size, status.st_mtime_ns)
    if not wanted(member):
        return member, None
    path = below / file
    if stat.S_ISLNK(status.st_mode):
        raise DataError([f"{printable(str(path))} is a link that leads out of {root} or nowhere; put the file there"])
    if not stat.S_ISREG(status.st_mode):
        raise DataError([f"{printable(str(path))} is no regular file; remove it"])
    _bounded(member, root)
    return member, path


def _unlisted(error: OSError) -> DataError:
    return DataError([f"{error.filename}: {error.strerror}; make the folder readable"])


def _zip(path: Path, wanted: Wanted) -> Iterator[tuple[Member, Content]]:
    import zipfile

    total, limit = 0, _limit(path)
    with zipfile.ZipFile(path) as archive:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            _refuse_unsafe(info.filename, path)
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(info.filename, path, "a link or a device")
            if info.flag_bits & 1:
                raise _refused(info.filename, path, "an encrypted file")
            total += info.file_size + HEADER_BYTES
            if total > limit:
                raise _too_much(path, limit)
            member = _bounded(Member(_plain(info.filename), info.file_size, folder=info.is_dir()), path)
            # ZipFile.read hands out file_size bytes at most and compares the CRC
            yield member, archive.read(info) if not member.folder and wanted(member) else None


def _lmdb(path: Path, wanted: Wanted) -> Iterator[tuple[Member, Content]]:
    """Keys are names, values the files. Opened without a lock: nothing is written beside it."""
    lmdb = extras.library("lmdb", "lmdb", f"{path} is an LMDB")
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False, create=False) as environment:
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if path.stat().st_size < needed:  # it is read through a memory map: what lies beyond the end kills the process
            raise EOFError(f"it ends after {path.stat().st_size:,} of {needed:,} bytes")
        with environment.begin(buffers=True) as transaction:
            for key, value in transaction.cursor():
                name = bytes(key).decode("utf-8", "surrogateescape")
                _refuse_unsafe(name, path)
                member = _bounded(Member(_plain(name), len(value)), path)
                yield member, bytes(value) if wanted(member) else None


def _tar(path: Path, compression: str, wanted: Wanted) -> Iterator[tuple[Member, Content]]:
    import importlib
    import tarfile

    opener: Any = importlib.import_module(compression) if compression != "tar" else None
    with opener.open(path) if opener else path.open("rb") as raw:
        stream: Any = _Stream(raw, path, skips=opener is None)
        with tarfile.TarFile(fileobj=stream) as opened:
            archive: Any = opened
            while (info := archive.next()) is not None:
                archive.members.clear()  # tarfile would keep them all
                _refuse_unsafe(info.name, path)
                if info.issparse() or not (info.isreg() or info.isdir()):
                    raise _refused(info.name, path, "a link, a device or a sparse file")
                offset = stream.position if opener is None else None
                member = Member(_plain(info.name), info.size, folder=info.isdir(), offset=offset)
                member, content = _bounded(member, path), None
                if not member.folder and wanted(member):
                    content = stream.read(info.size)
                    if len(content) != info.size:
                        raise EOFError("it ends within a file")
                yield member, content
            # tarfile takes any broken header after the first for the end: files would go missing in silence
            if stream.last != bytes(HEADER_BYTES):
                raise EOFError("it ends without its end mark")
            while stream.read(_CHUNK):  # a decompressor compares its checksums at the end
                pass


class _Stream:
    """What tarfile reads from: forward only, and never more than the limits, whatever the headers say."""

    def __init__(self, raw: IO[bytes], path: Path, skips: bool):
        self.raw, self.path, self.skips, self.limit = raw, path, skips, _limit(path)
        self.position, self.last = 0, b""

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        if self.skips:
            self.raw.seek(position)
            self.position = position
        while self.position < position:
            if not self.read(min(_CHUNK, position - self.position)):
                return

    def read(self, size: int) -> bytes:
        if size > MEMBER_LIMIT:
            raise _too_large("a header", size, self.path)
        self.last = self.raw.read(size)
        self.position += len(self.last)
        if self.position > self.limit:
            raise _too_much(self.path, self.limit)
        return self.last


def _kind(path: Path) -> str:
    with as_data_error(path), path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head[16:20] == LMDB_MAGIC:
        return "lmdb"
    if head[257:262] == b"ustar":
        return "tar"
    for magic, module in _COMPRESSIONS.items():
        if head.startswith(magic):
            return module
    raise DataError([f"{path} is neither a folder nor a tar, tar.gz, tar.bz2, tar.xz, zip or LMDB; unpack it first"])


def _guarded(path: Path, stream: Iterator[tuple[Member, Content]]) -> Iterator[tuple[Member, Content]]:
    with reading(path):
        yield from stream


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever reading `path` raises into a DataError."""
    # hostile bytes can raise nearly anything from within tarfile, zipfile, the decompressors and libraries
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = printable(str(error) or type(error).__name__)
        raise DataError([f"{path} is damaged or incomplete ({reason}); copy or download it again"]) from error


def _plain(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _refuse_unsafe(name: str, path: Path) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or parts[0][1:2] == ":":
        raise _refused(name, path, "a name that leads out of it")


def _bounded(member: Member, path: Path) -> Member:
    if member.size > MEMBER_LIMIT:
        raise _too_large(printable(member.name), member.size, path)
    return member


def _limit(path: Path) -> int:
    return max(TOTAL_LIMIT, RATIO_LIMIT * path.stat().st_size)


def _refused(name: str, path: Path, what: str) -> DataError:
    told = f"its member {printable(name)} is or has {what}; get it from a source you trust"
    return DataError([f"{path} is refused: {told}"])


def _too_large(name: str, size: int, path: Path) -> DataError:
    return DataError([f"{path} is refused: {name} has {size:,} bytes, more than {MEMBER_LIMIT:,}; remove it"])


def _too_much(path: Path, limit: int) -> DataError:
    return DataError([f"{path} is refused: it unpacks to over {limit:,} bytes; if that is right, unpack it yourself"])
