"""A disk that loses power: at every system call, it can be rebuilt as it is guaranteed to be after a restart.

A file has the content that it had at its last fsync, and none before the first one. A folder has the entries that it
had at its last fsync; a disk may also have written entries earlier, and so each state is rebuilt in both ways:

    strict   entries as of the last fsync of their folder
    eager    entries as they are, contents as of the last fsync: new names of empty files
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

Node = dict[str, int]  # name -> inode
Disk = dict[str, bytes]  # path -> content; a folder ends with /


class Power:
    """states: the different disks after the calls so far, with the call before which the power was cut."""

    def __init__(self, root: Path):
        self.root = root
        self.contents: dict[int, bytes] = {}  # inode -> content at the last fsync
        self.folders: dict[int, Node] = {}  # inode -> entries at the last fsync
        self.states: list[tuple[str, Disk]] = []
        self._held: list[int] = []  # open descriptors, so that no number of an inode is used again
        self._synced: set[int] = set()

    def fsynced(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if status.st_ino not in self._synced:
            self._synced.add(status.st_ino)
            self._held.append(os.dup(descriptor))
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if stat.S_ISDIR(status.st_mode):
            self.folders[status.st_ino] = {child.name: child.stat().st_ino for child in path.iterdir()}
        else:
            self.contents[status.st_ino] = path.read_bytes()

    def note(self, call: str) -> None:
        for kind, disk in (("strict", self._strict()), ("eager", self._eager())):
            if all(disk != other for _, other in self.states):
                self.states.append((f"{kind}, before {len(self.states)} {call}", disk))

    def _strict(self) -> Disk:
        found: Disk = {}

        def walk(inode: int, prefix: str) -> None:
            for name, child in self.folders.get(inode, {}).items():
                if child in self.folders or child in self._known_folders:
                    found[f"{prefix}{name}/"] = b""
                    walk(child, f"{prefix}{name}/")
                else:
                    found[prefix + name] = self.contents.get(child, b"")

        self._known_folders = {path.stat().st_ino for path in self.root.rglob("*") if path.is_dir()}
        walk(self.root.stat().st_ino, "")
        return found

    def _eager(self) -> Disk:
        found: Disk = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if path.is_dir():
                found[name + "/"] = b""
            else:
                found[name] = self.contents.get(path.stat().st_ino, b"")
        return found

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)


@contextmanager
def recorded(root: Path, patch) -> Iterator[Power]:
    """Note every state of the disk below `root` while the body runs. patch: a pytest.MonkeyPatch."""
    power, lock = Power(root), threading.RLock()
    originals = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink", "mkdir", "write", "open")}

    def shim(name):
        original = originals[name]

        def call(*given, **named):
            about = given[0] if given else ""
            if isinstance(about, int):
                link = f"/proc/self/fd/{about}"
                about = os.readlink(link) if os.path.exists(link) else ""
            if not str(about).startswith(str(root)):
                return original(*given, **named)
            with lock:  # checkpoints are written by a thread
                power.note(f"{name} {os.path.relpath(str(about), root)}")
                result = original(*given, **named)
                if name == "fsync":
                    power.fsynced(given[0])
                return result

        return call

    with patch.context() as inner:
        for name in originals:
            inner.setattr(os, name, shim(name))
        yield power
        power.note("the end")
    power.close()


def rebuild(disk: Disk, root: Path) -> None:
    """Write a state to an empty folder."""
    for name in disk:
        if name.endswith("/"):
            (root / name).mkdir(parents=True, exist_ok=True)
    for name, content in disk.items():
        if not name.endswith("/"):
            (root / name).write_bytes(content)
