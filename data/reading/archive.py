"""Iteration over the files of a folder, tar, zip or LMDB.

Contents are read to memory; nothing is written under a name taken from an archive. Archives with `..`, absolute paths,
links, devices or more data than the limits are rejected, even if the offending member would not be used.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from core.common import extras
from core.common.errors import DataError
from data.reading.disk import as_data_error
from data.reading.progress import first, printable, say

MEMBER_LIMIT = 256 * 2**20  # bytes of one file; the largest official file, train of CIFAR-100, has 155 MB
TOTAL_LIMIT = 2 * 2**30  # bytes of all files with their headers, in a small archive
RATIO_LIMIT = 100  # the limit of a larger archive, as a multiple of its size; zip bombs have ratios of about 1000
HEADER_BYTES = 512
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
LMDB_FILE, LMDB_MAGIC = "data.mdb", b"\xde\xc0\xef\xbe"
_CHUNK = 1 << 20

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "lzma", b"\x5d\x00\x00": "lzma"}


@dataclass(frozen=True)
class Member:
    """A file or folder in a source.

    name: relative path, with `/`.  size: bytes.  mtime_ns: only for files of a folder.  offset: of the content in
    bytes, only for members of an uncompressed tar.  Hidden folders are not traversed.
    """

    name: str
    size: int
    mtime_ns: int = 0
    folder: bool = False
    offset: int | None = None


Content = bytes | Path | None
Wanted = Callable[[Member], bool]
Refuse = Callable[[DataError], None]
Order = Callable[[list[str]], Sequence[str]]


def nothing(member: Member) -> bool:
    """The filter that selects no content, to read only names."""
    return False


def at_once(error: DataError) -> None:
    """The error handler that raises the first error of a folder."""
    raise error


def members(
    path: Path, wanted: Wanted = nothing, refuse: Refuse = at_once, order: Order = sorted
) -> Iterator[tuple[Member, Content]]:
    """(member, content) of all files and folders, in stored order, or of a folder sorted by name.

    content: the bytes of a wanted member of an archive, the path of a wanted file of a folder, otherwise None.
    refuse: called with each error of a folder; if it returns, iteration continues and that file has no content.
    order: of the names within a folder.
    Raises DataError for a source that is missing, unsafe, too large or damaged.
    """
    path = stored(path)
    if path.is_dir():
        return _folder(path, wanted, refuse, order)
    kind = _kind(path)
    readers = {"zip": _zip, "lmdb": _lmdb}
    return _guarded(path, readers[kind](path, wanted) if kind in readers else _tar(path, kind, wanted))


def stored(path: Path) -> Path:
    """The file or folder to read: for an LMDB that is a folder, its data file."""
    return path / LMDB_FILE if (path / LMDB_FILE).is_file() else path


def hidden(name: str) -> bool:
    """Whether a component of the name starts with a dot or is __MACOSX."""
    odd = name.startswith(".") or "/." in name or "__MACOSX" in name  # a quick test, since it runs for every file
    return odd and any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def fingerprint(path: Path) -> str:
    """A hash of the path, names, sizes and modification times of a source; contents are not read. Raises DataError."""
    path = stored(path)
    digest = hashlib.sha256(os.fsencode(path.resolve()))
    if path.is_dir():
        for member, _ in members(path):
            line = f"\n{member.size} {member.mtime_ns} {member.folder} {member.name}"
            digest.update(line.encode("utf-8", "surrogateescape"))
    else:
        _refuse_irregular(path)
        with as_data_error(path):
            status = path.stat()
        digest.update(f"\n{status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _folder(root: Path, wanted: Wanted, refuse: Refuse, order: Order) -> Iterator[tuple[Member, Content]]:
    real = root.resolve()
    for at, folders, files in os.walk(root, onerror=lambda error: refuse(_unlisted(error))):
        folders[:] = order(folders)
        below, inside = Path(at), Path(at).relative_to(root).as_posix()
        inside = "" if inside == "." else f"{inside}/"
        for name in folders:
            if (below / name).is_symlink() and not hidden(name):
                link = printable(str(below / name))
                refuse(DataError([f"{link} is a symbolic link to a folder; replace it by the folder"]))
                continue
            yield Member(inside + name, 0, 0, folder=True), None
        folders[:] = [name for name in folders if not hidden(name)]
        for name in order(files):
            try:
                found: tuple[Member, Content] = _file(below, name, inside + name, root, real, wanted)
            except DataError as error:
                refuse(error)
                found = Member(inside + name, 0), None
            yield found


def _file(below: Path, file: str, name: str, root: Path, real: Path, wanted: Wanted) -> tuple[Member, Content]:
    try:
        status = os.lstat(f"{below}/{file}")  # creating a Path for each file would be slow
    except OSError as error:
        raise DataError([f"{printable(str(below / file))}: {error.strerror}"]) from None
    if stat.S_ISLNK(status.st_mode) and (target := (below / file).resolve()).is_relative_to(real) and target.exists():
        status = target.stat()
    member = Member(name, status.st_size, status.st_mtime_ns)
    if not wanted(member):
        return member, None
    path = below / file
    if stat.S_ISLNK(status.st_mode):
        link = printable(str(path))
        raise DataError([f"{link} is a symbolic link that is broken or points outside {root}; replace it by the file"])
    if not stat.S_ISREG(status.st_mode):
        raise DataError([f"{printable(str(path))} is not a regular file; remove it"])
    _bounded(member, root)
    return member, path


def _unlisted(error: OSError) -> DataError:
    return DataError([f"{error.filename}: {error.strerror}; make the folder readable"])


def _zip(path: Path, wanted: Wanted) -> Iterator[tuple[Member, Content]]:
    import zipfile

    from data.reading import zips

    total, limit = 0, _limit(path)
    guessed: list[str] = []
    with zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        if infos and infos[0].header_offset:
            raise _joined(path, "a zip program")
        for info in infos:
            name, certain = zips.name_of(info)
            guessed += [] if certain else [name]
            _refuse_unsafe(name, path)
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(name, path, "a link or a device")
            if info.flag_bits & 1:
                raise _refused(name, path, "an encrypted file")
            total += info.file_size + HEADER_BYTES
            if total > limit:
                raise _too_much(path, limit)
            member, content = _bounded(Member(_plain(name), info.file_size, folder=info.is_dir()), path), None
            if not member.folder and wanted(member):
                if info.compress_type not in zips.METHODS:
                    method = zips.OTHER_METHODS.get(info.compress_type, str(info.compress_type))
                    advice = "which is not supported; unpack it and use the folder, or create it again with Deflate"
                    raise DataError([f"{path}: {printable(name)} is compressed by the method {method}, {advice}"])
                if (content := zips.content_of(archive, info)) is None:
                    raise _refused(name, path, "more data than it claims")
            yield member, content
        _tell_guessed(path, tuple(guessed))


def _lmdb(path: Path, wanted: Wanted) -> Iterator[tuple[Member, Content]]:
    """Members of an LMDB: keys are names, values are contents. Opened without a lock, so that nothing is written."""
    lmdb = extras.library("lmdb", "lmdb", f"reading {path} as LMDB")
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False, create=False) as environment:
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if path.stat().st_size < needed:  # reading a memory map beyond the end of the file kills the process
            raise EOFError(f"the file has {path.stat().st_size:,} of {needed:,} bytes")
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
    if compression == "lzma":
        _refuse_large_dictionary(path)
    with opener.open(path) if opener else path.open("rb") as raw:
        stream: Any = _Stream(raw, path, skips=opener is None)
        with tarfile.TarFile(fileobj=stream) as opened:
            archive: Any = opened
            while (info := archive.next()) is not None:
                archive.members.clear()  # tarfile would keep all members in memory
                _refuse_unsafe(info.name, path)
                if info.issparse() or not (info.isreg() or info.isdir()):
                    raise _refused(info.name, path, "a link, a device or a sparse file")
                offset = stream.position if opener is None else None
                member = Member(_plain(info.name), info.size, folder=info.isdir(), offset=offset)
                member, content = _bounded(member, path), None
                if not member.folder and wanted(member):
                    content = stream.read(info.size)
                    if len(content) != info.size:
                        raise EOFError("the file ends within a member")
                yield member, content
            # tarfile treats any damaged header after the first as the end, which would silently drop files
            if stream.last != bytes(HEADER_BYTES):
                raise EOFError("the end-of-archive marker is missing")
            while chunk := stream.read(_CHUNK):  # decompressors check their checksums at the end
                if any(chunk):
                    raise _joined(path, "tar --concatenate")


def _refuse_large_dictionary(path: Path) -> None:
    """Raises DataError for a file of xz whose first block needs more memory than the largest file may have."""
    import lzma

    with path.open("rb") as stream:
        head = stream.read(_CHUNK)
    try:
        lzma.LZMADecompressor(memlimit=MEMBER_LIMIT).decompress(head, max_length=1)
    except lzma.LZMAError as error:
        if "memory" in str(error).lower():
            needs = f"it needs more than {MEMBER_LIMIT:,} bytes of memory to unpack; compress it with xz -9 or less"
            raise DataError([f"{path} is rejected: {needs}"]) from None
        raise


class _Stream:
    """The stream that tarfile reads: forward only, and never more than the limits, regardless of the headers."""

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
    _refuse_irregular(path)
    with as_data_error(path), path.open("rb") as stream:
        head = stream.read(512)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head[16:20] == LMDB_MAGIC:
        return "lmdb"
    if head[257:262] == b"ustar" or _is_old_tar(head):
        return "tar"
    for magic, module in _COMPRESSIONS.items():
        if head.startswith(magic):
            return module
    data = (
        "Hdf5" if head.startswith(HDF5_MAGIC) else "ImageTable" if path.suffix.lower() in (".csv", ".parquet") else ""
    )
    if data:
        raise DataError([f"{path} is not a folder or archive of images; to read it, add --data {data}"])
    kinds = "a folder, tar, tar.gz, tar.bz2, tar.xz, zip or LMDB"
    raise DataError([f"{path} is not {kinds}; unpack it and use the folder"])


def _is_old_tar(head: bytes) -> bool:
    """Whether a file begins with a header of the first tar format, which has a checksum but no mark."""
    import tarfile

    try:
        return bool(tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape").name)
    except tarfile.HeaderError:
        return False


def _refuse_irregular(path: Path) -> None:
    """Raises DataError for a pipe or a device, which may never end."""
    with as_data_error(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError([f"{path} is not a regular file"])


def _guarded(path: Path, stream: Iterator[tuple[Member, Content]]) -> Iterator[tuple[Member, Content]]:
    with reading(path):
        yield from stream


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context manager that converts any exception raised while reading `path` into a DataError."""
    # malformed files can raise nearly any exception in tarfile, zipfile, the decompressors and libraries
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
        raise _refused(name, path, "a name that points outside the archive")


def _bounded(member: Member, path: Path) -> Member:
    if member.size > MEMBER_LIMIT:
        raise _too_large(printable(member.name), member.size, path)
    return member


def _limit(path: Path) -> int:
    return max(TOTAL_LIMIT, RATIO_LIMIT * path.stat().st_size)


def _refused(name: str, path: Path, what: str) -> DataError:
    reason = f"its member {printable(name)} is or has {what}; get the archive from a source you trust"
    return DataError([f"{path} is rejected: {reason}"])


@cache
def _tell_guessed(path: Path, names: tuple[str, ...]) -> None:
    """Warn, once, about names in a zip that do not say in which encoding they are."""
    if names:
        shown = ", ".join(first([printable(name) for name in names], 3))
        say(f"warning: {path.name}: {len(names):,} names have no known encoding and are read as cp437: {shown}")


def _joined(path: Path, tool: str) -> DataError:
    advice = f"as when archives are joined by cat; unpack them and use the folder, or join them with {tool}"
    return DataError([f"{path} is rejected: it has further data beyond its list of files, {advice}"])


def _too_large(name: str, size: int, path: Path) -> DataError:
    limit = f"more than the limit of {MEMBER_LIMIT:,}"
    return DataError([f"{path} is rejected: {name} has {size:,} bytes, {limit}; remove this file"])


def _too_much(path: Path, limit: int) -> DataError:
    advice = "if you trust it, unpack it and use the folder"
    return DataError([f"{path} is rejected: it unpacks to more than {limit:,} bytes; {advice}"])
