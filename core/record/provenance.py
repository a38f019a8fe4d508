"""Provenance of a result: code, packages and machine. Nothing here affects a run."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shlex
import sys
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from core.common.machine import usable_cores
from core.common.text import public, without_paths
from core.record.git import GitError, git

if TYPE_CHECKING:
    import torch


def code() -> dict[str, str]:
    """Returns git.commit, git.branch and git.dirty of the repository or, without a commit, the reason as git.unknown.

    git.unrecorded: what neither the commit nor the diff contains.
    """
    try:
        commit = git("rev-parse", "--verify", "HEAD").decode().strip()
        branch = os.fsdecode(git("rev-parse", "--abbrev-ref", "HEAD")).strip()
        words = (
            "status",
            "--porcelain=v2",
            "-z",
            "--no-renames",
            "--ignore-submodules=none",
            "--untracked-files=normal",
        )
        changed = git(*words, "--", ".").split(b"\0")
    except GitError as reason:
        return {"git.unknown": str(reason)}
    found = {"git.commit": commit, "git.branch": branch, "git.dirty": str(any(changed)).lower()}
    # "1 .M S.MU ...": a submodule with modified and untracked files
    fields = [os.fsdecode(line).split(" ", 8) for line in changed if line.startswith(b"1 ")]
    if dirty := [words[8] for words in fields if words[2][0] == "S" and words[2][2:] != ".."]:
        found["git.unrecorded"] = f"uncommitted changes in the submodule {', '.join(dirty)}"
    return found


@functools.cache
def packages() -> str:
    """Returns name==version of all installed packages, one per line, sorted."""
    # setuptools, once imported (by torch.compile), adds a folder with its own copies of packages
    path = [folder for folder in sys.path if not folder.endswith("_vendor")]
    every = metadata.distributions(path=path)
    found = {f"{dist.metadata['Name']}=={dist.version}" for dist in every if dist.metadata["Name"]}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def versions() -> dict[str, str]:
    """Returns version.* of the packages that affect results the most."""
    names = ("torch", "torchvision", "numpy", "albumentations", "mlflow", "optuna")
    found = {f"version.{name}": metadata.version(name) for name in names if _installed(name)}
    return {"version.python": platform.python_version()} | found


def hardware(device: torch.device) -> dict[str, str]:
    """Returns hardware.* of this machine and of the training device."""
    import torch

    facts = {
        "hardware.host": platform.node(),
        "hardware.cpu": _cpu(),
        "hardware.cores": str(usable_cores()),
        "hardware.cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "hardware.threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["hardware.gpu"] = properties.name
        facts["hardware.gpu_memory_gb"] = f"{properties.total_memory / 2**30:.0f}"
        facts["version.cuda"] = torch.version.cuda or ""
    return facts


def command() -> str:
    """Returns the command line that starts this process again, as a shell takes it, without the user and password of
    a URI."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    program = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else ["python", *sys.argv[:1]]
    if not spec and Path(sys.argv[0]).name == "labbook":  # the entry point, as it was typed
        program = ["labbook"]
    given = pairwise(sys.argv)
    return shlex.join([*program, *(_without_secrets(before, word) for before, word in given)])


def _without_secrets(before: str, word: str) -> str:
    """An argument, without user and password; of --notify, also without the path of a URL, which is often a secret."""
    is_alert = before == "--notify" or word.startswith("--notify=")
    return without_paths(word) if is_alert else public(word, whole=True)


def peak_memory_mb() -> float:
    """Returns the peak resident memory of this process, in MB."""
    import resource

    with contextlib.suppress(OSError):  # no /proc outside of Linux: getrusage, which may include the parent's
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False
