"""Named points at which a test can kill the process. Without $LABBOOK_FAILPOINT, they do nothing."""

import os
import signal


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL if $LABBOOK_FAILPOINT is this name."""
    if os.environ.get("LABBOOK_FAILPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
