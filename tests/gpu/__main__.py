"""The GPU check: what a GPU has to do right, and ratios to bare scripts, in at most 8 minutes on one H100.

    python -m tests.gpu                             on the GPU
    python -m tests.gpu --device cpu --small        the same entries with small sizes, on a machine without a GPU
    python -m tests.gpu --only precision killed     these entries
    python -m tests.gpu --out FOLDER                where gpu.json and gpu.md are written; default: mlruns/gpu

Entries run one after the other in another process, which is started anew after an entry that fails or exceeds its time,
so that one of them cannot spoil the next. The files are written after each entry. The exit status is 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.gpu.worker import Entries, Worker

MINUTES = 8.0
SLOWER = 4  # times that an entry may take longer on a CPU, beside other work


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--small", action="store_true", help="small sizes")
    parser.add_argument("--only", nargs="*", metavar="ENTRY", help="these entries")
    parser.add_argument("--out", type=Path, help="folder of gpu.json and gpu.md")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no entry is started after this time")
    given = parser.parse_args(words)
    entries = Entries.all()
    if unknown := sorted(set(given.only or ()) - set(entries.limits)):
        parser.error(f"no such entry: {', '.join(unknown)}; there is {', '.join(entries.limits)}")
    names = [name for name in entries.limits if not given.only or name in given.only]
    from core.common import paths

    folder = given.out or paths.home() / "mlruns" / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    result = check(names, given.device, given.small, given.minutes * 60, lambda found: write(folder, found))
    print(markdown(result))
    print(f"written to {folder / 'gpu.json'} and {folder / 'gpu.md'}")
    return int(any(one["status"] == "failed" for one in result["entries"].values()))


def check(
    names: Sequence[str], device: str, small: bool, seconds: float, each: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Run the entries. each: called with the result so far after every entry."""
    limits, began = Entries.all().limits, time.monotonic()
    result: dict[str, Any] = {"machine": {}, "device": device, "small": small, "entries": {}}
    with Worker(device, small) as worker:
        result["machine"] = worker.ask("machine", 120)["seen"]
        for name in names:
            left = seconds - (time.monotonic() - began)
            late = {"status": "skipped", "seen": f"no time left of {seconds / 60:g} minutes", "seconds": 0.0}
            limit = limits[name] * (1 if device.startswith("cuda") else SLOWER)
            found = worker.ask(name, min(left, limit)) if left > 0 else late
            result["entries"][name] = found
            print(f"{name}: {found['status']} ({found['seconds']:.1f} s) {_line(found['seen'])}", flush=True)
            each(result)
    return result


def _line(seen: Any) -> str:
    if isinstance(seen, dict) and "ratio" in seen:
        unit = f"{seen['labbook']:,.1f}/s, bare {seen['bare']:,.1f}/s"
        return f"{seen['ratio']:.2f}x ({unit}; median of {seen['rounds']:.0f})"
    return str(seen).strip().splitlines()[-1] if str(seen).strip() else ""


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write gpu.json and gpu.md."""
    (folder / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "gpu.md").write_text(markdown(result))


def markdown(result: dict[str, Any]) -> str:
    """The result as tables: what was run on what, each check, each ratio."""
    machine, entries = result["machine"], result["entries"]
    lines = [", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    if result["small"]:
        lines += ["Small sizes: the ratios mean nothing.", ""]
    ratios = {name: one for name, one in entries.items() if isinstance(one["seen"], dict)}
    lines += ["| check | result | seconds | what was seen |", "| --- | --- | --- | --- |"]
    for name, one in entries.items():
        if name not in ratios:
            lines += [f"| `{name}` | {one['status']} | {one['seconds']:.1f} | {_line(one['seen']).replace('|', '/')} |"]
    if ratios:
        lines += ["", "| per second | labbook | bare script | ratio | rounds |", "| --- | --- | --- | --- | --- |"]
    for name, one in ratios.items():
        seen = one["seen"]
        figures = f"{seen['labbook']:,.1f} | {seen['bare']:,.1f} | {seen['ratio']:.2f}x | {seen['rounds']:.0f}"
        lines += [f"| `{name}` | {figures} |"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
