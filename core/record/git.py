"""Git with a fixed configuration: neither the user's settings nor the repository's change what it answers, and no
program that they name is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from core.common.paths import ROOT

_FIXED = (
    "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.quotePath=false", "color.ui=false",
    "submodule.recurse=false", "apply.whitespace=nowarn", "apply.ignoreWhitespace=no",
)  # fmt: skip
_KEPT = ("GIT_CONFIG", "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM")  # they may say what git trusts
# every option that a setting could change; what git apply needs to make the same files again, byte for byte
DIFF = (
    "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--no-relative", "--src-prefix=a/",
    "--dst-prefix=b/", "--inter-hunk-context=0", "-O/dev/null", "--submodule=short", "--ignore-submodules=dirty",
)  # fmt: skip


class GitError(Exception):
    """Git failed, is not installed, or does not know the repository. The message is the reason, in one line."""


def git(*words: str, folder: Path | None = None, standard_input: bytes = b"") -> bytes:
    """Returns what git prints in `folder`, by default in ROOT. Raises GitError."""
    if not shutil.which("git"):
        raise GitError("git is not installed")
    fixed = [word for setting in _FIXED for word in ("-c", setting)]
    command = ["git", "--no-pager", *fixed, "-C", str(folder or ROOT), *words]
    done = subprocess.run(command, input=standard_input, capture_output=True, check=False, env=_environment())
    if done.returncode:
        raise GitError(_reason(done.stderr.decode(errors="replace"), words[0]))
    return done.stdout


def prefix() -> str:
    """Returns the path of ROOT below the top folder of its repository, empty or with a slash at the end. Raises
    GitError."""
    return os.fsdecode(git("rev-parse", "--show-prefix")).removesuffix("\n")


def _environment() -> dict[str, str]:
    # GIT_DIR and GIT_INDEX_FILE, as in a hook, would lead to another repository
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith(_KEPT)}
    return kept | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}


def _reason(complaint: str, verb: str) -> str:
    if found := re.search(r"dubious ownership in repository at '(.+)'", complaint):
        advice = f"git config --global --add safe.directory {found[1]}"
        return f"git does not trust {found[1]}, which another user owns; if you do: {advice}"
    if "not a git repository" in complaint:
        return "this is not a git repository"
    if verb == "rev-parse":
        return "the git repository has no commit"
    lines = [line for line in complaint.splitlines() if line.startswith(("fatal:", "error:"))] or complaint.splitlines()
    return f"git {verb}: {lines[-1] if lines else 'failed'}"
