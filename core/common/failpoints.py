"""Named points at which a test can pull the plug. Without $LABBOOK_FAILPOINT they do nothing."""

import os
import signal


def failpoint(name: str) -> None:
    """Die here, as at a power cut, if $LABBOOK_FAILPOINT is this name."""
    if os.environ.get("LABBOOK_FAILPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
