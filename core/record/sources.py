"""The code of a run: digests of the sources that it imported, and what git does not have of them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import site
import stat
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from core.common.paths import ROOT
from core.record.git import DIFF, GitError, git, prefix
from core.record.secret_scan import CODE, suspicious

FILE = "code/sources.json"
DIFF_FILE, UNTRACKED = "code/uncommitted.diff", "code/untracked"
MAIN = "code/main.py"  # of the script or notebook that defines a part of the declaration
Kind = Literal["none", "code", "all"]
_TEXTS = CODE | {".toml", ".yml", ".yaml", ".md", ".cfg", ".sh", ".ipynb"}
_MOST, _MOST_TOGETHER = 500_000, 10_000_000  # bytes of one file, and of all
_MODULE = "module "  # begins the name of a source outside of the repository


@dataclass(frozen=True)
class Snapshot:
    """What git does not have of the code.

    diff: of tracked files against HEAD, as `git apply` takes it.  files: untracked file, relative to ROOT -> content.
    left_out: file -> reason.
    """

    diff: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def imported() -> dict[str, str]:
    """Returns the SHA-256 of each imported source that belongs to no installed package.

    The key is the path relative to ROOT or, of a file outside of it, "module NAME". Line ends do not count.
    """
    found = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py"):
            continue
        if _is_installed(file) or _is_generated(name):
            continue
        path = Path(os.path.abspath(file))
        if digest := digest_of(path):
            if path.is_relative_to(ROOT):
                found[path.relative_to(ROOT).as_posix()] = digest
            elif name not in ("__main__", "__mp_main__"):
                found[f"{_MODULE}{name}"] = digest
    return found


def _is_installed(file: str) -> bool:
    return _path(file).startswith(_installed())  # of thousands of modules; comparing Paths would take most of the time


def _is_generated(name: str) -> bool:
    """Whether a module is part of an installed package that is stored elsewhere: code that torch.compile has written
    to its cache."""
    package, dot, _ = name.partition(".")
    file = getattr(sys.modules.get(package), "__file__", None)
    return bool(dot) and isinstance(file, str) and _is_installed(file)


def now(name: str, folder: Path | None = None) -> str | None:
    """Returns the digest of a source under the name that `imported` gave it; None if it does not exist any more.

    folder: to be used instead of ROOT.
    """
    path = path_of(name, folder)
    return digest_of(path) if path else None


def path_of(name: str, folder: Path | None = None) -> Path | None:
    """Returns the file of a source; None if its module does not exist any more. folder: to be used instead of ROOT."""
    if not name.startswith(_MODULE):
        return (folder or ROOT) / name
    module = name.removeprefix(_MODULE)
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        file = spec.origin if spec else None
    return Path(file) if file else None


def digest_of(path: Path) -> str | None:
    """Returns the SHA-256 of a file, with line ends as \\n in a text; None if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    text = content.replace(b"\r\n", b"\n") if b"\0" not in content[:8000] else content
    return hashlib.sha256(text).hexdigest()


def snapshot(kind: Kind, sources: Mapping[str, str]) -> Snapshot:
    """Returns what git does not have of the code: nothing if `kind` is none, or without git.

    code: untracked files with a suffix of code, next to an imported source.  all: also settings and notes, wherever
    they are. Links, large files and what looks like a secret are left out and named.
    """
    if kind == "none":
        return Snapshot()
    try:
        diff, left_out = _changes()
        listed = os.fsdecode(git("ls-files", "--others", "--exclude-standard", "-z")).split("\0")
    except GitError:
        return Snapshot()
    reach = {os.path.dirname(name) for name in sources}
    suffixes = _TEXTS if kind == "all" else CODE
    wanted = [name for name in sorted(listed) if Path(name).suffix in suffixes]
    wanted = [name for name in wanted if kind == "all" or os.path.dirname(name) in reach]
    contents: dict[str, bytes] = {}
    for name in wanted:
        content, reason = _content(name)
        if reason:
            left_out[name] = reason
        else:
            contents[name] = content
    files, more = _harmless(contents, contents)
    return Snapshot(diff, files, left_out | more)


def main_source() -> tuple[bytes, str]:
    """(the script that this process runs, or the cells of its notebook that were run; why there is none, or "")."""
    main = sys.modules["__main__"]
    if isinstance(cells := getattr(main, "In", None), list):  # IPython's input history
        content = "\n\n".join(filter(None, map(str, cells))).encode()
    else:
        try:
            content = Path(str(getattr(main, "__file__", ""))).read_bytes()
        except OSError:
            return b"", "there is no file of it"
    kept, left_out = _harmless({MAIN: content}, {MAIN: content})
    return kept.get(MAIN, b""), left_out.get(MAIN, "")


def without_blobs(diff: bytes) -> bytes:
    """Returns a diff without its lines `index ...`, whose length depends on the repository, for a comparison."""
    return re.sub(rb"(?m)^index [0-9a-f]+\.\.[0-9a-f]+.*\n", b"", diff)


def recorded(artifacts: Path) -> dict[str, Any] | None:
    """Returns the content of code/sources.json: snapshot, files and left_out; None if the run has none."""
    try:
        found = json.loads((artifacts / FILE).read_text())
        sound = isinstance(found["files"], dict) and isinstance(found["left_out"], dict)
        return found if sound and found["snapshot"] in get_args(Kind) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def to_record(kind: Kind, sources: Mapping[str, str], left_out: Mapping[str, str]) -> str:
    """Returns the text of code/sources.json. Large files that were left out are named with their digests."""
    large = {name: now(name) for name, reason in left_out.items() if "bytes" in reason}
    files = dict(sources) | {name: digest for name, digest in large.items() if digest}
    return json.dumps({"snapshot": kind, "files": files, "left_out": dict(left_out)}, indent=1) + "\n"


def _harmless(contents: Mapping[str, bytes], shown: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, str]]:
    """(contents without those that look like a secret or are too much, name -> reason). shown: what is examined."""
    left_out = suspicious(shown)
    kept: dict[str, bytes] = {}
    room = _MOST_TOGETHER
    for name, content in contents.items():
        if name in left_out:
            continue
        if len(content) > room:
            left_out[name] = f"more than {_MOST_TOGETHER:,} bytes in all"
            continue
        kept[name] = content
        room -= len(content)
    return kept, left_out


def _changes() -> tuple[bytes, dict[str, str]]:
    """(diff of the tracked files below ROOT against HEAD, file -> why it was left out). Raises GitError."""
    top = prefix()
    large = list(_large())
    excluded = [f":(top,exclude,literal){name}" for name in large]
    diff = git(*DIFF, "--binary", "--unified=3", "HEAD", "--", ".", *excluded)
    parts: dict[str, bytes] = {}
    for part in re.split(rb"(?m)^(?=diff --git )", diff):  # a line of a file begins with another character
        head = part.partition(b"\n")[0].removeprefix(b"diff --git ")
        if part.startswith(b"diff --git "):
            name = os.fsdecode(head[: len(head) // 2]).strip('"').removeprefix("a/")  # of "a/NAME b/NAME"
            parts[name.removeprefix(top)] = part
    kept, left_out = _harmless(parts, {name: _shown(name, part) for name, part in parts.items()})
    too_large = {name.removeprefix(top): f"more than {_MOST:,} bytes" for name in large}
    return b"".join(kept.values()), left_out | too_large


def _large() -> Iterator[str]:
    """The changed files, relative to the top of the repository, that are or were too large for a diff."""
    top = Path(os.fsdecode(git("rev-parse", "--show-toplevel")).removesuffix("\n"))
    words = git(*DIFF, "--raw", "--no-abbrev", "-z", "HEAD", "--", ".").split(b"\0")
    changed = [(head.split()[2], os.fsdecode(name)) for head, name in zip(words[::2], words[1::2], strict=False)]
    asked = b"".join(blob + b"\n" for blob, _ in changed)
    sizes = git("cat-file", "--batch-check=%(objectsize)", standard_input=asked).splitlines()
    for (_, name), before in zip(changed, sizes, strict=True):
        after = (top / name).lstat().st_size if os.path.lexists(top / name) else 0
        if max(after, int(before) if before.isdigit() else 0) > _MOST:
            yield name


def _shown(name: str, part: bytes) -> bytes:
    """The lines of a file that a part of a diff shows; of a binary diff, the file itself."""
    if b"\nGIT binary patch\n" in part:
        return _read(ROOT / name) or b""
    return b"\n".join(line[1:] for line in part.partition(b"\n@@")[2].splitlines())


def _content(name: str) -> tuple[bytes, str | None]:
    """(content of an untracked file, why it is left out or None)."""
    path = ROOT / name
    if path.is_symlink():
        return b"", "a symbolic link"
    content = _read(path)
    if content is None:
        return b"", "cannot be read"
    return content, f"more than {_MOST:,} bytes" if len(content) > _MOST else None


def _read(path: Path) -> bytes | None:
    """Up to _MOST + 1 bytes of a regular file; None for a link, and for a file that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as stream:
        return stream.read(_MOST + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


@cache
def _installed() -> tuple[str, ...]:
    """The folders of Python and of the installed packages, each with a separator at its end."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names} | {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(os.path.join(_path(folder), "") for folder in sorted(folders))


def _path(file: str) -> str:
    return os.path.normcase(os.path.abspath(file))
