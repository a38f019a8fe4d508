"""Provenance of a result: code, packages and machine. Nothing here affects a run."""

from __future__ import annotations

import contextlib
import functools
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from core.common.machine import usable_cores
from core.common.paths import ROOT
from core.common.text import public

if TYPE_CHECKING:
    import torch

SOURCE_SUFFIXES = {".py", ".toml", ".yml", ".yaml", ".md", ".cfg", ".sh", ".ipynb"}
MOST_SOURCE_BYTES = 500_000


def code() -> dict[str, str]:
    """Returns git.commit, git.branch and git.dirty of the repository; empty without git."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {}
    branch = _git("rev-parse", "--abbrev-ref", "HEAD") or ""
    dirty = bool((_git("status", "--porcelain") or "").strip())
    return {"git.commit": commit.strip(), "git.branch": branch.strip(), "git.dirty": str(dirty).lower()}


def uncommitted() -> tuple[str, list[Path]]:
    """Returns (diff of tracked files against HEAD, untracked source files relative to the repository root)."""
    diff = _git("diff", "HEAD", "--binary") or ""
    listed = (_git("ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    files = [Path(name) for name in listed if Path(name).suffix in SOURCE_SUFFIXES]
    return diff, [file for file in files if (ROOT / file).is_file() and _size(file) <= MOST_SOURCE_BYTES]


@functools.cache
def packages() -> str:
    """Returns name==version of all installed packages, one per line, sorted."""
    found = {f"{dist.metadata['Name']}=={dist.version}" for dist in metadata.distributions() if dist.metadata["Name"]}
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
    """Returns the command line that starts this process again, without the user and password of a URI."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    program = f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {sys.argv[0]}"
    return public(" ".join([program, *sys.argv[1:]]))


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


def _size(file: Path) -> int:
    return (ROOT / file).stat().st_size


def _git(*arguments: str) -> str | None:
    """The output of a git command in the repository; None without git or outside a repository."""
    if not shutil.which("git"):
        return None
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False)
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
