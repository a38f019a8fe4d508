"""`python -m core.cluster.rank MODULE WORDS`: one process of a run on a node of a Ray cluster.

It runs MODULE as `python -m` does, and dies with the agent that started it, of which standard input is a pipe: the
process would otherwise keep the lock of its run, which the agents that replace this one have to resume.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _die_with_agent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_die_with_agent, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
