"""A queue whose entries run a stand-in for an experiment, which trains nothing and notes what happens to it."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from core.queue import code, entries
from tests.support.forge import Forge

# an experiment that trains nothing: it waits until a file named go is there, saves on SIGTERM, and notes its starts
STANDIN = """
import json, os, signal, sys, time
from pathlib import Path

signals, mode, number = [], sys.argv[1], os.environ["LABBOOK_INVOCATION"].split()[1]
signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
os.close(os.open(f"running-{number}", os.O_CREAT | os.O_EXCL))
marks = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LABBOOK_INVOCATION")}
with open(f"starts-{number}", "a") as file:
    file.write(json.dumps(marks | {"pid": os.getpid(), "time": time.monotonic()}) + "\\n")
with open("order", "a") as file:
    file.write(f"{number}\\n")
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
    """A queue whose entries run the stand-in in `folder`. key: of the code, when entries are added."""

    folder: Path
    forge: Forge
    key: str = ""

    def add(self, *modes, after=()):
        self.key = self.key or code.keep()
        commands = [["standin", mode] for mode in modes]
        return [made.number for made in entries.add(commands, str(self.folder), after, self.key)]

    def start(self, *words, **env):
        return self.forge.start("core", "queue", "run", *words, env=env)

    def run(self, *words):
        """(exit status, output) of a runner that is left alone."""
        return self.forge.run("core", "queue", "run", *words)

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
