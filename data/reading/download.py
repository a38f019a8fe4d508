"""Download of a file, which appears under its name only when it is complete and verified."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.common.errors import DataError
from core.common.files import place, sha256_of
from data.reading import disk
from data.reading.progress import bar, say

CONNECT_SECONDS = 12.0  # timeout of name resolution, connection and response together
STALL_SECONDS = 20.0  # timeout without receiving data
_CHUNK = 1 << 16


class _Broken(Exception):
    """The transfer failed; the message says why."""


def download(url: str, target: Path, sha256: str) -> None:
    """Download a file with this sha256 (hexadecimal) to `target`, resuming from `<target>.part` if it exists.

    Does nothing if the file exists. One process downloads while others wait. Raises DataError.
    """
    if target.exists():
        return
    lock = target.with_name(f"{target.name}.lock")
    with disk.locked(lock, f"waiting: another process is downloading {target.name}"), disk.as_data_error(target):
        if not target.exists():
            _fetch(url, target, sha256)


def _fetch(url: str, target: Path, sha256: str) -> None:
    part = target.with_name(f"{target.name}.part")
    try:
        continued = part.exists() and part.stat().st_size > 0
        found = sha256_of(part) if continued else ""
        if found != sha256:
            found = _transfer(url, part)
        if found != sha256 and continued:  # the part file was damaged or of another file: download from the start
            part.unlink()
            found = _transfer(url, part)
    except _Broken as error:
        raise _missing(url, target, sha256, str(error)) from None
    if found != sha256:
        part.unlink()
        problem = f"the checksum does not match: sha256 expected {sha256}, got {found}"
        raise _missing(url, target, sha256, problem)
    place(part, target)
    say(f"downloaded {target}")


def _transfer(url: str, part: Path) -> str:
    """Download the rest of the file to `part`; returns the sha256 of the whole file."""
    start = part.stat().st_size if part.exists() else 0
    answer = _within(CONNECT_SECONDS, lambda: _open(url, start))
    with answer:
        if start and answer.status != 206:
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        digest = hashlib.sha256()
        with part.open("r+b" if start else "wb") as stream:
            while start and (chunk := stream.read(_CHUNK)):
                digest.update(chunk)
            with disk.writing(part.parent, (total or start) - start, f"the download {url}"):
                received = start + _receive(answer, stream, digest, bar(f"downloading {url}", total, "bytes"), start)
    if total is not None and received < total:
        raise _Broken(f"incomplete transfer: expected {total:,} bytes, got {received:,}; start again to resume it")
    return digest.hexdigest()


def _receive(answer: Any, stream: Any, digest: Any, progress: Any, start: int) -> int:
    import http.client

    received = 0
    with progress as advance:
        advance(start)
        while True:
            try:
                chunk = answer.read1(_CHUNK)
            except TimeoutError:
                raise _Broken(f"no data received for {STALL_SECONDS:g} s; start again to resume the download") from None
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(f"the connection was lost ({error}); start again to resume the download") from None
            if not chunk:
                stream.flush()
                return received
            stream.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            advance(len(chunk))


def _open(url: str, start: int) -> Any:
    import urllib.error
    import urllib.request

    headers = {"User-Agent": "labbook"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=STALL_SECONDS)
    except urllib.error.HTTPError as error:
        if start and error.code == 416:  # the part file is as long as the file, but differs from it
            return _open(url, 0)
        raise _Broken(f"the server responded {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _Broken(f"no connection ({error.reason})") from None
    except (OSError, ValueError) as error:
        raise _Broken(f"no connection ({error})") from None


def _within(seconds: float, connect: Callable[[], Any]) -> Any:
    """connect() with a timeout, in a thread, because name resolution has no timeout of its own."""
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            results.put(connect())
        except Exception as error:
            results.put(error)

    threading.Thread(target=attempt, daemon=True, name="download").start()
    try:
        result = results.get(timeout=seconds)
    except queue.Empty:
        raise _Broken(f"no response within {seconds:g} s") from None
    if isinstance(result, Exception):
        raise result
    return result


def _missing(url: str, target: Path, sha256: str, problem: str) -> DataError:
    return DataError(
        [
            f"downloading {url} failed: {problem}",
            f"put the file at {target} (sha256 {sha256})",
            "or use data that you already have with --root PATH",
        ]
    )
