"""labbook rerun RUN: trains the declaration of a run again and compares the results.

It first checks whether code, packages, weights, data and machine are the same, then compares every metric with the
recorded one. A rerun is recorded like any other run.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.common import paths
from core.common.errors import UserError
from core.common.files import sha256_of
from core.common.terminal import tell
from core.launch import Launch
from core.record import provenance
from core.record.run import WEIGHTS
from core.runs.trained import Run, declared, load

ROUNDING = 1e-3  # relative and absolute tolerance
COMPARED = ("train/", "val/", "test/", "lr")  # all other metrics are times and memory
DIFF, UNTRACKED = "code/uncommitted.diff", "code/untracked"


@dataclass(frozen=True)
class Check:
    """Comparison of one aspect of the environment.

    what: code, packages, weights, data or machine.  differences: empty if it is the same.
    """

    what: str
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """Result of a rerun.

    same: bitwise identical.  close: no final metric differs by more than ROUNDING.  text: the result in words.
    """

    same: bool
    close: bool
    text: str


def check_environment(run: Run, launch: Launch) -> list[Check]:
    """Compare the present environment with the one in which the run was trained. Returns one Check for each aspect."""
    from core.common.device import device_of
    from core.common.ranks import Ranks
    from core.training.assemble import load_splits

    facts = run.record["facts"]
    splits = load_splits(run.experiment, launch)
    digests = [f"digest {run.record['data']['digest'][:12]} then, {splits.digest[:12]} now"]
    now = provenance.hardware(device_of(launch.device, Ranks())) | {"hardware.threads": str(launch.threads)}
    machine = [
        f"{name.removeprefix('hardware.')} {facts.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in sorted({name for name in (*facts, *now) if name.startswith("hardware.")})
        if name not in ("hardware.host", "hardware.processes") and facts.get(name) != now.get(name)
    ]
    return [
        Check("code", tuple(_code(run))),
        Check("packages", tuple(_packages(run))),
        Check("weights", tuple(_weights(run))),
        Check("data", tuple(digests if splits.digest != run.record["data"]["digest"] else ())),
        Check("machine", tuple(machine)),
    ]


def compare_results(run: Run, again: Run, checks: Sequence[Check]) -> Verdict:
    """Compare the metrics and weights of a rerun with those of the original run. checks: name the possible causes."""
    first = first_difference(run.history, again.history)
    weights = [_digest(one) for one in (run, again)]
    different = [check for check in checks if check.differences]
    because = ", ".join(f"different {check.what} ({check.differences[0]})" for check in different)
    if first is None and weights[0] == weights[1]:
        aside = f", despite {because}" if because else ""
        return Verdict(True, True, f"bitwise identical: every metric of every epoch and the weights{aside}")
    where = "only the weights differ" if first is None else f"first at {first[0]} of epoch {first[1]}: {first[2]}"
    reason = because or "unknown, the recorded environment is the same"
    if _is_close(run.metrics, again.metrics):
        return Verdict(False, True, f"within rounding ({where}); cause: {reason}")
    return Verdict(False, False, f"different ({where}); cause: {reason}")


def first_difference(
    before: Mapping[str, Mapping[int, float]], after: Mapping[str, Mapping[int, float]]
) -> tuple[str, int, str] | None:
    """Returns (metric, epoch, both values as text) of the first epoch at which a metric differs; None if all agree."""
    found = []
    for name in sorted(name for name in before if name in after and name.startswith(COMPARED)):
        for epoch in sorted(set(before[name]) & set(after[name])):
            a, b = before[name][epoch], after[name][epoch]
            if a != b and not (math.isnan(a) and math.isnan(b)):
                found.append((epoch, name, f"{a:.9g} then, {b:.9g} now"))
                break
    if not found:
        return None
    epoch, name, values = min(found)
    return name, epoch, values


def _is_close(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    names = [name for name in before if name.startswith(("val/", "test/"))]
    return all(name in after and math.isclose(before[name], after[name], rel_tol=ROUNDING, abs_tol=ROUNDING)
               for name in names)  # fmt: skip


def _code(run: Run) -> Iterator[str]:
    facts, artifacts = run.record["facts"], run.folder / "artifacts"
    then, now = facts.get("git.commit", "none"), provenance.code().get("git.commit", "none")
    if then != now:
        yield f"commit {then[:7]} then, {now[:7]} now"
    diff, untracked = provenance.uncommitted()
    recorded = (artifacts / DIFF).read_text() if (artifacts / DIFF).exists() else ""
    if diff != recorded:
        yield "different uncommitted changes"
    before = {path.relative_to(artifacts / UNTRACKED) for path in (artifacts / UNTRACKED).rglob("*") if path.is_file()}
    for file in sorted(before | set(untracked)):
        old, new = artifacts / UNTRACKED / file, paths.ROOT / file
        if not (old.exists() and new.exists() and old.read_bytes() == new.read_bytes()):
            yield f"the untracked file {file} differs"


def _weights(run: Run) -> Iterator[str]:
    """Changes in the pretrained weights that the network started from."""
    then, now = run.record.get("weights"), run.experiment.model.origin()
    if then and now and then["sha256"] != now.sha256:
        yield f"sha256 {then['sha256'][:12]} then, {now.sha256[:12]} now"


def _packages(run: Run) -> Iterator[str]:
    then, now = (
        dict(line.split("==", 1) for line in text.split())
        for text in (run.artifact("packages.txt").read_text(), provenance.packages())
    )
    changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    for name in changed[:5]:
        yield f"{name} {then.get(name, 'none')} then, {now.get(name, 'none')} now"
    if len(changed) > 5:
        yield f"and {len(changed) - 5} more"


def launch_of(run: Run, root: Path | None) -> Launch:
    """Returns the launch options of a run, with the same number of threads, which determines the order of sums.

    Raises UserError for a run that cannot be rerun.
    """
    record = run.record
    declared(record)  # raises for an imported run
    if "data" not in record:
        raise UserError([f"{run.id} is the parent of other runs; rerun one of those"])
    if record.get("continued"):
        raise UserError([f"{run.id} was continued from {record['continued']}; rerun that run"])
    if (count := int(record["facts"].get("hardware.processes", "1"))) > 1:
        raise UserError([f"{run.id} was trained by {count} processes; a rerun uses a single process"])
    launch = Launch.read(record["launch"])
    return launch.but({"threads": int(record["facts"]["hardware.threads"]), "root": root or launch.root})


def rerun_here(run: Run, launch: Launch) -> Run:
    """Train the declaration of a run again, with the present code. Returns the new run."""
    from core.runs.recorder import RunInfo
    from core.runs.train import train

    info = RunInfo(run.record["experiment"], run.record["variant"], f"rerun of {run.id}")
    return train(run.experiment, launch, info)


def rerun_in_worktree(run: Run, launch: Launch) -> Run:
    """Train the declaration of a run again, with the recorded code in a temporary git worktree. Returns the new run.

    Its id is read from the output. Raises UserError if the code cannot be restored or fails.
    """
    name, options = run.record["experiment"], launch.flat()
    given = [word for key, value in options.items() if value is not None for word in (f"--{key}", str(value))]
    record = run.folder / "artifacts" / "record.json"
    with _worktree(run) as folder:
        command = [sys.executable, "-m", f"experiments.{name}", "--from", str(record), *given]
        environment = {**os.environ, "LABBOOK_HOME": str(paths.home())}
        lines = []
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as child:
            for line in child.stdout or ():
                lines.append(line)
                tell(f"  {line.rstrip()}")
        if child.returncode:
            raise UserError([f"rerun: the recorded code exited with status {child.returncode}"])
    found = [match[1] for line in lines if (match := re.match(r"record: (.+)", line))]
    return load(found[-1])


@contextmanager
def _worktree(run: Run) -> Iterator[Path]:
    commit = run.record["facts"].get("git.commit")
    if not commit or not shutil.which("git"):
        raise UserError([f"{run.id}: {'git is not installed' if commit else 'its record does not contain a commit'}"])
    with tempfile.TemporaryDirectory(prefix="labbook-rerun-") as parent:
        folder = Path(parent) / "code"
        _git("worktree", "add", "--detach", str(folder), commit)
        try:
            artifacts = run.folder / "artifacts"
            if (artifacts / DIFF).exists():
                _git("-C", str(folder), "apply", "--whitespace=nowarn", str(artifacts / DIFF))
            if (artifacts / UNTRACKED).exists():
                shutil.copytree(artifacts / UNTRACKED, folder, dirs_exist_ok=True)
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*words: str) -> None:
    done = subprocess.run(["git", "-C", str(paths.ROOT), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(
            [f"git {words[0]}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'failed'}"]
        )


def _digest(run: Run) -> str:
    return sha256_of(run.artifact(WEIGHTS)) if (run.folder / "artifacts" / WEIGHTS).exists() else "none"
