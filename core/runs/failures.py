"""Translates errors that end a run early into messages that say what to do. NonFinite is in
core/training/nonfinite.py."""

from __future__ import annotations

import errno
import signal

from core.common.errors import ImageLost, NotCompiled, OutOfMemory, PeerLost, Unfinished, WorkerLost
from core.common.files import NO_ROOM
from core.common.memory import is_out_of_memory, out_of_memory
from core.loading.watchdog import is_lost_worker
from core.training.compiled import reason

_FAILING_DISK = (*NO_ROOM, errno.EIO, errno.EROFS, errno.ESTALE)
_COMPILER = ("torch._dynamo.", "torch._inductor.")  # which define the errors of torch.compile


def explained(error: BaseException, run: str, step: int) -> BaseException:
    """The error to show to the user in place of this one; the error itself if no better one is known. step: optimizer
    steps done."""
    if is_lost_worker(error):
        # torch raises this in the signal handler, and might do so again while the end of the run is being recorded
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        error = WorkerLost(f"step {step + 1}: {str(error).splitlines()[0].strip()}")
    if isinstance(error, OSError) and error.errno in _FAILING_DISK:
        return Unfinished(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", run)
    if isinstance(error, ImageLost):  # from a loader worker, the message starts with the traceback of that worker
        return Unfinished(str(error).rpartition("ImageLost: ")[2].strip(), run)
    if isinstance(error, PeerLost | WorkerLost):
        return Unfinished(str(error), run)
    if is_out_of_memory(error) and not isinstance(error, OutOfMemory):
        return out_of_memory(error, "lower batch_size, raise grad_accum_steps (smaller micro-batches)")
    if type(error).__module__.startswith(_COMPILER):
        return NotCompiled(f"step {step + 1} could not be compiled: {reason(error)}; train with --compile off")
    return error
