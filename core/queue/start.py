"""Becomes the command line of an entry: it locks the entry's file and replaces itself by `python -m WORDS`.

POSIX locks survive exec, and the kernel releases them when the process dies: so an entry is locked exactly as long as
its training lives, whatever becomes of the runner that started it, and is never trained by two processes at once.

    python -m core.queue.start LOCKFILE WORD ...
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

TAKEN = 75  # exit status if another process trains the entry; EX_TEMPFAIL of sysexits.h
_WAIT = 5.0  # seconds; who only looks whether a lock is free holds it for a moment


def main() -> None:
    """Does not return. Exits with TAKEN if another process holds the lock."""
    descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o644)
    end = time.monotonic() + _WAIT
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > end:
                sys.exit(TAKEN)
            time.sleep(0.05)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())  # for who wants to stop it
    os.set_inheritable(descriptor, True)
    os.execv(sys.executable, [sys.executable, "-u", "-m", *sys.argv[2:]])


if __name__ == "__main__":
    main()
