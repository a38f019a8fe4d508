"""Messages and exit statuses of commands that fail."""

from __future__ import annotations

from collections.abc import Callable

from core.common import paths
from core.common.errors import DataError, UserError
from core.common.files import NO_ROOM
from core.common.ranks import ranks_here, started_together
from core.common.terminal import complain


def explain(title: str, mistakes: UserError, started: bool = False) -> int:
    """Print every error of the user below a title. Returns the exit status.

    started: whether the verb may already have done something.
    """
    # the lines of a DataError are about one error
    count = 1 if isinstance(mistakes, DataError) else len(mistakes.lines)
    title = f"{title}: {count} error{'s' if count != 1 else ''}{'' if started else ', nothing was started'}"
    if not ranks_here().rank:
        complain("\n  ".join([title, *mistakes.lines]))
    return 2


def guarded(command: str, action: Callable[[], int]) -> int:
    """Run a training, printing messages about errors. Returns the exit status. command: the one that can resume it."""
    from core.common.errors import (
        Failing,
        Interrupted,
        NonFinite,
        NotCompiled,
        OutOfMemory,
        PeerLost,
        Unfinished,
        WorkerLost,
    )
    from core.training.distributed import joined

    here = ranks_here()

    def failed(*lines: str) -> None:
        prefix = f"process {here.rank}: " if here.rank else ""
        complain("\n".join(["", *(f"{prefix}{line}" for line in lines)]))

    torchrun = f"torchrun --nproc-per-node {here.local_ranks} -m {command.split()[-1]}"
    together = started_together()
    resume = f"resume it with: {torchrun if here.ranks > 1 and not together else command} resume"
    count = f" --processes {together}" if together else ""
    try:
        with joined():
            return action()
    except Interrupted as interrupted:
        if not here.rank:
            failed(str(interrupted), *([f"{resume} {interrupted.run}{count}"] if interrupted.run else []))
        return 128 + interrupted.number
    except Unfinished as error:
        failed(f"stopped: {error}", f"{resume} {error.run}{count}")
    except (Failing, NonFinite, NotCompiled, OutOfMemory, PeerLost, WorkerLost) as error:
        failed(f"failed: {error}")
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        failed(f"failed: {error.strerror}; everything recorded before is in {paths.runs()}")
    return 1
