"""What ends a run before its time, in words that say what to do. NonFinite stands in core/training/nonfinite.py."""

from __future__ import annotations

import errno
import re
import signal

import torch

from core.common.errors import ImageLost, OutOfMemory, PeerLost, Unfinished, WorkerLost
from core.loading.workers import is_lost_worker

_FAILING_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)
_NO_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|Cannot allocate memory")


def explained(error: BaseException, run: str, step: int) -> BaseException:
    """The error that a user should see in the place of this one; itself where nothing better can be said. step: that
    was done."""
    if is_lost_worker(error):
        # torch raises it out of the signal's handler, and may do so again in the midst of what is written now
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        error = WorkerLost(f"step {step + 1}: {str(error).splitlines()[0].strip()}")
    if isinstance(error, OSError) and error.errno in _FAILING_DISK:
        return Unfinished(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", run)
    if isinstance(error, ImageLost):  # of a loading process it comes with that process's traceback in front
        return Unfinished(str(error).rpartition("ImageLost: ")[2].strip(), run)
    if isinstance(error, PeerLost | WorkerLost):
        return Unfinished(str(error), run)
    if is_out_of_memory(error):
        advice = "lower batch_size, raise grad_accum_steps (parts of a batch), use precision bf16, --resident false"
        return OutOfMemory(f"out of memory: {str(error).splitlines()[0][:200]}; {advice} or fewer --workers")
    return error


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU (torch.OutOfMemoryError) or of the machine."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))
