"""A queue whose entries run a stand-in for an experiment, which trains nothing and notes what happens to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from core.common.paths import ROOT
from core.queue import code, entries

# an experiment that trains nothing: it waits until a file named go is there, saves on SIGTERM, and notes its starts
STANDIN = """
import json, os, signal, sys, time
from pathlib import Path

signals, mode, number = [], sys.argv[1], os.environ["LABBOOK_INVOCATION"].split()[1]
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
marks = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LABBOOK_INVOCATION")}
with open(f"starts-{number}", "a") as file:
    file.write(json.dumps(marks | {"pid": os.getpid(), "time": time.monotonic()}) + "\\n")
with open("order", "a") as file:
    file.write(f"{number}\\n")
os.close(os.open(f"running-{number}", os.O_CREAT | os.O_EXCL))
if mode == "fail" and not Path("go").exists():
    print("the reason of the failure")
end = time.monotonic() + 60
while mode == "wait" and not signals and not Path("go").exists() and time.monotonic() < end:
    time.sleep(0.02)
os.remove(f"running-{number}")
sys.exit(143 if signals else 3 if mode == "fail" and not Path("go").exists() else 0)
"""


@dataclass
class Bench:
    """A queue whose entries run the stand-in in `folder`."""

    folder: Path

    def add(self, *modes, after=()):
        key = code.keep()
        return [
            made.number for made in entries.add([["standin", mode] for mode in modes], str(self.folder), after, key)
        ]

    def start(self, *words, **env):
        return subprocess.Popen(
            [sys.executable, "-m", "core", "queue", "run", *words],
            env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words):
        """(exit status, output) of a runner that is left alone."""
        process = self.start(*words)
        text, _ = process.communicate(timeout=120)
        return process.returncode, text

    def starts(self, number):
        path = self.folder / f"starts-{number}"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def go(self):
        (self.folder / "go").touch()

    def states(self):
        return {number: entries.shown_state(entry) for number, entry in entries.read().items()}

    def kill(self, number):
        """Kill the process of an entry, as the kernel does when memory runs out."""
        pid = entries.process_of(number)
        os.kill(pid, signal.SIGKILL)
        (self.folder / f"running-{number}").unlink()
        until(lambda: not entries.is_trained(number))


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
