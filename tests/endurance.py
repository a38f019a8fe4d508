"""The long proof: what the suite shows on a few examples, shown on as many as RELIABILITY's figures ask for.

    python -m tests.endurance                           every part, each to its target
    python -m tests.endurance kills images              these parts
    python -m tests.endurance points --count 5000       to another target
    python -m tests.endurance kills --round 17          one round alone, to see its failure again

It may be stopped at any time (Ctrl-C, kill) and goes on where it stood when started again: after each round the counts
are written to a file (mlruns/endurance.json, or --state FILE). Everything in a round follows from its number. What a
failed round left behind is kept beside that file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.endurance_parts import PARTS, Bench, Part

DEFAULT = Path(__file__).resolve().parents[1] / "mlruns" / "endurance.json"


class Tally:
    """The counts on disk: part -> rounds done, what they reached, which failed; and results worth keeping."""

    def __init__(self, path: Path):
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        self.parts: dict[str, dict[str, Any]] = found.get("parts", {})
        self.known: dict[str, Any] = found.get("known", {})

    def of(self, part: str) -> dict[str, Any]:
        return self.parts.setdefault(part, {"rounds": 0, "reached": 0, "failures": []})

    def add(self, part: str, reached: int, failures: list[str]) -> None:
        """One round more. A round that failed counts for what of it went well."""
        counts = self.of(part)
        counts["failures"] += [{"round": counts["rounds"], "why": why} for why in failures]
        counts["reached"] += reached
        counts["rounds"] += 1
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.part")
        temporary.write_text(json.dumps({"parts": self.parts, "known": self.known}, indent=1))
        os.replace(temporary, self.path)

    def table(self, targets: dict[str, int]) -> str:
        lines = [f"{'part':<10} {'reached':>9} {'target':>9} {'failures':>9}"]
        for name, target in targets.items():
            counts = self.of(name)
            lines.append(f"{name:<10} {counts['reached']:>9,} {target:>9,} {len(counts['failures']):>9}")
        for name in targets:
            for failure in self.of(name)["failures"]:
                again = f"python -m tests.endurance {name} --round {failure['round']}"
                lines.append(f"\n{name}, round {failure['round']} (again: {again}):\n{failure['why'].strip()[-3000:]}")
        return "\n".join(lines)


def play(name: str, part: Part, number: int, bench: Bench, keep: Path) -> tuple[int, list[str]]:
    """One round in a folder of its own: (what it reached, its failures)."""
    folder = Path(tempfile.mkdtemp(prefix=f"endurance-{name}-{number}-"))
    failures: list[str] = []
    reached = 0
    try:
        reached, failures = part.play(bench, number, folder)
    except Exception:  # whatever it is, it is a finding, and the other rounds go on
        failures = [traceback.format_exc()]
    finally:
        if failures:
            shutil.rmtree(keep, ignore_errors=True)
            shutil.copytree(folder, keep, symlinks=True, ignore_dangling_symlinks=True)
        shutil.rmtree(folder, ignore_errors=True)
    return reached, failures


def run(targets: dict[str, int], tally: Tally, show: bool = True) -> bool:
    """Each part to its target, one round of each in turn, so that a proof that is stopped has seen all of them.

    Whether nothing failed, in these and in earlier rounds.
    """
    with contextlib.closing(Bench(tally.known)) as bench:
        while behind := [name for name, target in targets.items() if tally.of(name)["reached"] < target]:
            # the part that is furthest from its target
            name = min(behind, key=lambda name: tally.of(name)["rounds"] * PARTS[name].size / targets[name])
            number, began = tally.of(name)["rounds"], time.monotonic()
            keep = tally.path.parent / f"endurance-{name}-{number}"
            reached, failures = play(name, PARTS[name], number, bench, keep)
            tally.add(name, reached, failures)
            if show:
                text = f"{len(failures)} FAILED, kept in {keep}" if failures else "well"
                took = time.monotonic() - began
                print(f"{name} {tally.of(name)['reached']:,}/{targets[name]:,}: {text} ({took:.0f} s)", flush=True)
            if tally.of(name)["rounds"] * PARTS[name].size > 2 * targets[name] + 10 * PARTS[name].size:
                break  # a part that only fails would go on for ever
    return not any(tally.of(name)["failures"] for name in targets)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--count", type=int, help="another target than the part's own")
    parser.add_argument("--state", type=Path, default=DEFAULT, help="where the counts are kept")
    parser.add_argument("--round", type=int, help="play this round alone; nothing is counted")
    given = parser.parse_args(words)
    if unknown := sorted(set(given.parts) - set(PARTS)):
        parser.error(f"no such part: {', '.join(unknown)}; there is {', '.join(PARTS)}")
    targets = {name: given.count or PARTS[name].target for name in given.parts or PARTS}
    tally = Tally(given.state)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that what was started is ended, too
    if given.round is not None:
        if len(targets) != 1:
            parser.error("--round needs one part")
        (name,) = targets
        keep = given.state.parent / f"endurance-{name}-{given.round}"
        with contextlib.closing(Bench(tally.known)) as bench:
            _, failures = play(name, PARTS[name], given.round, bench, keep)
        print("\n".join(failures) or f"{name}, round {given.round}: well")
        return 1 if failures else 0
    try:
        well = run(targets, tally)
    except KeyboardInterrupt:
        print()
        well = True
    print(tally.table(targets))
    reached = all(tally.of(name)["reached"] >= target for name, target in targets.items())
    return 0 if well and reached else 1


if __name__ == "__main__":
    sys.exit(main())
