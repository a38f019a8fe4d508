"""Members of zip files: their names, and their contents with a bound on what is decompressed."""

from __future__ import annotations

import bz2
import copy
import lzma
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
OTHER_METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_UTF8, _UNIX, _UNICODE_PATH = 0x800, 3, 0x7075


def name_of(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """(the name of a member as common unpackers read it, whether its encoding is known).

    Without the UTF-8 flag, zipfile takes any name for cp437. Here, the Unicode path field counts first (APPNOTE 4.6.9),
    then UTF-8 if the bytes are valid, as macOS and Info-ZIP write it; of archives made on Unix, other bytes are kept,
    as in a folder. What remains is cp437, which is a guess unless it is ASCII.
    """
    plain = info.orig_filename.partition("\0")[0]
    if info.flag_bits & _UTF8 or plain.isascii():
        return plain, True
    raw = info.orig_filename.encode("cp437")
    if declared := _unicode_path(info.extra, raw):
        return declared, True
    try:
        return raw.decode().partition("\0")[0], True
    except UnicodeDecodeError:
        if info.create_system == _UNIX:
            return raw.decode("utf-8", "surrogateescape").partition("\0")[0], True
        return plain, False


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """The name in the Unicode path field, if it belongs to this name."""
    while len(extra) >= 4:
        kind, size = (int.from_bytes(extra[at : at + 2], "little") for at in (0, 2))
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and body[:1] == b"\1" and int.from_bytes(body[1:5], "little") == zlib.crc32(raw):
            return body[5:].decode("utf-8", "replace").partition("\0")[0]
    return None


def content_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes | None:
    """The content of a member; None if it holds more than it claims, of which no more than one byte is decompressed.

    zipfile itself decompresses all of a member before it cuts it to the claimed size. Raises an exception for a damaged
    member.
    """
    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    del stored.CRC  # of the content, not of what is stored
    with archive.open(stored) as stream:
        raw = stream.read()
    content = _decompressed(raw, info.compress_type, info.file_size + 1)
    if len(content) > info.file_size:
        return None
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"the content of {info.filename!r} does not match its checksum")
    return content


def _decompressed(raw: bytes, method: int, limit: int) -> bytes:
    """At most the first `limit` bytes of the content."""
    if method == zipfile.ZIP_STORED:
        return raw
    step = _decompressor(raw, method)
    content = bytearray()
    while len(content) < limit and (more := step(limit - len(content))):
        content += more
    return bytes(content)


def _decompressor(raw: bytes, method: int) -> Callable[[int], bytes]:
    """A function that returns at most so many further bytes, none at the end."""
    if method == zipfile.ZIP_DEFLATED:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        rest = [raw]

        def further(size: int) -> bytes:
            more = inflate.decompress(rest[0], size)
            rest[0] = inflate.unconsumed_tail
            return more

        return further
    if method == zipfile.ZIP_LZMA:  # two bytes of version, two of the length of the properties, then these
        end = 4 + int.from_bytes(raw[2:4], "little")
        made: Any = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
        raw = raw[4:end] + b"\xff" * 8 + raw[end:]  # the header of an .lzma file of unknown length
    else:
        made = bz2.BZ2Decompressor()
    given = iter((raw,))
    return lambda size: b"" if made.eof else made.decompress(next(given, b""), size)
