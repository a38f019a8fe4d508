"""How a command ends when it does not end well: what is said, and the exit status."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from core.common import paths
from core.common.errors import DataError, UserError
from core.common.ranks import ranks_here


def explain(command: str, mistakes: UserError) -> int:
    """Print what the user got wrong, all of it; the exit status."""
    # the lines of a DataError tell of one thing
    count = 1 if isinstance(mistakes, DataError) else len(mistakes.lines)
    title = f"{command}: nothing was started" + (f", {count} mistakes" if count > 1 else "")
    if not ranks_here().rank:
        print("\n  ".join([title, *mistakes.lines]), file=sys.stderr)
    return 2


def guarded(command: str, action: Callable[[], int]) -> int:
    """The exit status of what trains. command: by which it can be resumed."""
    from core.common.errors import Failing, Interrupted, NonFinite, OutOfMemory, PeerLost, Unfinished, WorkerLost
    from core.training.distributed import joined

    here = ranks_here()

    def complain(*lines: str) -> None:
        speaker = f"process {here.rank}: " if here.rank else ""
        print("", *(f"{speaker}{line}" for line in lines), sep="\n", file=sys.stderr)

    several = f"torchrun --nproc-per-node {here.local_ranks} -m {command.split()[-1]}"
    go_on = f"go on with: {several if here.ranks > 1 else command} resume"
    try:
        with joined():
            return action()
    except Interrupted as interrupted:
        if not here.rank:
            complain(str(interrupted), *([f"{go_on} {interrupted.run}"] if interrupted.run else []))
        return 128 + interrupted.number
    except Unfinished as error:
        complain(f"stopped: {error}", f"{go_on} {error.run}")
    except (Failing, NonFinite, OutOfMemory, PeerLost, WorkerLost) as error:
        complain(f"failed: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        complain(f"failed: {error.strerror}; what was recorded until then is in {paths.runs()}")
    return 1
