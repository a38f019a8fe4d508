"""Fetch one file: whole and verified under its name, or not there at all."""

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
from data.reading.terminal import bar, say

CONNECT_SECONDS = 12.0  # name, connection and first answer together
STALL_SECONDS = 20.0  # without a single byte
_CHUNK = 1 << 16


class _Broken(Exception):
    """The transfer did not come to its end; the message says why."""


def download(url: str, target: Path, sha256: str) -> None:
    """The file of this digest (hex) at `target`; what an interrupted call left in `<target>.part` is continued.

    Does nothing where the file stands already. One process at a time; others wait. Raises DataError.
    """
    if target.exists():
        return
    lock = target.with_name(f"{target.name}.lock")
    with disk.locked(lock, f"waiting: another process is fetching {target.name}"), disk.as_data_error(target):
        if not target.exists():
            _fetch(url, target, sha256)


def _fetch(url: str, target: Path, sha256: str) -> None:
    part = target.with_name(f"{target.name}.part")
    try:
        continued = part.exists() and part.stat().st_size > 0
        found = sha256_of(part) if continued else ""
        if found != sha256:
            found = _transfer(url, part)
        if found != sha256 and continued:  # the old part was of another file, or broken: once more from nothing
            part.unlink()
            found = _transfer(url, part)
    except _Broken as error:
        raise _missing(url, target, sha256, str(error)) from None
    if found != sha256:
        part.unlink()
        problem = f"what came is not what was expected: sha256 expected {sha256}, got {found}"
        raise _missing(url, target, sha256, problem)
    place(part, target)
    say(f"fetched {target}")


def _transfer(url: str, part: Path) -> str:
    """Append to `part` what it lacks; the sha256 of the whole."""
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
                received = start + _receive(answer, stream, digest, bar(f"fetching {url}", total, "bytes"), start)
    if total is not None and received < total:
        raise _Broken(f"it broke off: expected {total:,} bytes, got {received:,}; start again to continue from there")
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
                raise _Broken(f"nothing came for {STALL_SECONDS:g} s; start again to continue from there") from None
            except (OSError, http.client.HTTPException) as error:
                raise _Broken(f"it broke off ({error}); start again to continue from there") from None
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
        if start and error.code == 416:  # the part is as long as the file, and not the file
            return _open(url, 0)
        raise _Broken(f"the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _Broken(f"no connection ({error.reason})") from None
    except (OSError, ValueError) as error:
        raise _Broken(f"no connection ({error})") from None


def _within(seconds: float, connect: Callable[[], Any]) -> Any:
    """connect(), for so long at most. A name server that never answers knows no timeout of its own: hence a thread."""
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
        raise _Broken(f"no answer within {seconds:g} s") from None
    if isinstance(result, Exception):
        raise result
    return result


def _missing(url: str, target: Path, sha256: str, problem: str) -> DataError:
    return DataError(
        [
            f"{target.name} is not there, and fetching {url} failed: {problem}",
            f"put the file at {target} (sha256 {sha256})",
            "or name data that you have with --root PATH",
        ]
    )
