"""Where the processes of a run meet: at torchrun's address, or where LABBOOK_RENDEZVOUS says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import torch.distributed as dist

from core.common.errors import UserError
from core.common.ranks import RENDEZVOUS, ranks_here

SECONDS = 300.0  # after which a process that waits for the others gives up
FORMS = "tcp://HOST:PORT, file:///PATH or mpi://"


def address() -> str:
    """Returns the URL in LABBOOK_RENDEZVOUS, or env:// for MASTER_ADDR and MASTER_PORT. Raises UserError."""
    url = os.environ.get(RENDEZVOUS) or "env://"
    if url == "env://":
        return url
    wrong = _wrong(url)
    if not wrong and url != "mpi://" and ranks_here().ranks == 1 and os.environ.get("WORLD_SIZE") != "1":
        wrong = "RANK (from 0) and WORLD_SIZE should be set, too"
    if wrong:
        raise UserError([f"{RENDEZVOUS}={url}: {wrong}"])
    return url


def _wrong(url: str) -> str:
    try:
        parts = urlsplit(url)
        place = parts.hostname and parts.port
    except ValueError as error:
        return str(error)
    if url == "mpi://":
        advice = f"build torch with MPI, or use another of {FORMS}"
        return "" if dist.is_mpi_available() else f"this torch was built without MPI; {advice}"
    if parts.scheme == "tcp":
        return "" if place else "should be tcp://HOST:PORT"
    if parts.scheme != "file" or parts.netloc:
        return f"should be {FORMS}"
    folder = Path(parts.path).parent
    if not folder.is_dir():
        return f"there is no folder {folder}; it should be on a disk that all machines share"
    return "" if os.access(folder, os.W_OK) else f"{folder} cannot be written"


def meet() -> tuple[dist.Store, int, int]:  # type: ignore[name-defined]
    """Returns (the store that all processes share, the rank of this one, their number). Raises DistError."""
    url, here = address(), ranks_here()
    if url == "env://":
        found: tuple[dist.Store, int, int] = next(dist.rendezvous(url))  # type: ignore[attr-defined, name-defined]
        return found
    waited = timedelta(seconds=SECONDS)
    found = next(dist.rendezvous(url, here.rank, here.ranks, timeout=waited))  # type: ignore[attr-defined]
    found[0].set_timeout(waited)  # torch passes none to the store of a file
    return found


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of a rendezvous at an address of LABBOOK_RENDEZVOUS into UserError."""
    url, here = address(), ranks_here()
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if url == "env://":
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        left = f"; if a job that ended left {urlsplit(url).path}, remove it" if url.startswith("file:") else ""
        advice = f"start all {here.ranks} processes within {SECONDS:g} s, each with a RANK of its own{left}"
        failure = f"process {here.rank} did not meet the others: {reason}"
        raise UserError([f"{RENDEZVOUS}={url}: {failure}; {advice}"]) from None


def forget() -> None:
    """Remove the file of a file:// rendezvous, once all processes have met for the last time. A no-op elsewhere."""
    url = urlsplit(os.environ.get(RENDEZVOUS, ""))
    if url.scheme == "file" and ranks_here().rank == 0:
        Path(url.path).unlink(missing_ok=True)
