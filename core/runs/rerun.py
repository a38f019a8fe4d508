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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.common import paths
from core.common.errors import UserError
from core.common.files import sha256_of
from core.common.terminal import tell
from core.launch import Launch
from core.record import provenance, sources
from core.record.git import GitError, git, prefix
from core.record.run import MICRO_BATCHES, WEIGHTS, refuse_combined
from core.runs.trained import Run, declared, load, own_launch

ROUNDING = 1e-3  # relative and absolute tolerance
COMPARED = ("train/", "val/", "test/", "lr")  # all other metrics are times and memory


@dataclass(frozen=True)
class Check:
    """Comparison of one aspect of the environment.

    what: code, packages, weights, data, machine or micro-batches.  differences: empty if none is known.  unknown: why
    it is not known whether it is the same; empty if it is.
    """

    what: str
    differences: tuple[str, ...]
    unknown: str = ""

    def __str__(self) -> str:
        if self.differences:
            return f"{self.what}: {'; '.join(self.differences)}"
        return f"{self.what}: {f'unknown ({self.unknown})' if self.unknown else 'the same'}"


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
    splits = load_splits(run.experiment, launch, run.record["data"]["classes"])
    digests = [f"digest {run.record['data']['digest'][:12]} then, {splits.digest[:12]} now"]
    now = provenance.hardware(device_of(launch.device, Ranks())) | {"hardware.threads": str(launch.threads)}
    machine = [
        f"{name.removeprefix('hardware.')} {facts.get(name, 'none')} then, {now.get(name, 'none')} now"
        for name in sorted({name for name in (*facts, *now) if name.startswith("hardware.")})
        if name not in ("hardware.host", "hardware.processes") and facts.get(name) != now.get(name)
    ]
    if run.record["launch"].get("together"):
        machine.append("trained together with other runs then, alone now")
    return [
        _code(run),
        Check("packages", tuple(_packages(run))),
        Check("weights", tuple(_weights(run))),
        Check("data", tuple(() if splits.same_as(run.record["data"]) else digests)),
        Check("machine", tuple(machine)),
    ]


def compare_results(run: Run, again: Run, checks: Sequence[Check]) -> Verdict:
    """Compare the metrics and weights of a rerun with those of the original run. checks: name the possible causes."""
    first = first_difference(run.history, again.history)
    weights = [_digest(one) for one in (run, again)]
    different = [check for check in [*checks, _memory(run, again)] if check.differences]
    because = ", ".join(f"different {check.what} ({check.differences[0]})" for check in different)
    if first is None and weights[0] == weights[1]:
        aside = f", despite {because}" if because else ""
        return Verdict(True, True, f"bitwise identical: every metric of every epoch and the weights{aside}")
    where = "only the weights differ" if first is None else f"first at {first[0]} of epoch {first[1]}: {first[2]}"
    unknown = ", ".join(check.what for check in checks if check.unknown)
    rest = f"; not known to be the same: {unknown}" if unknown else ", the recorded environment is the same"
    reason = because or f"unknown{rest}"
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


def _code(run: Run) -> Check:
    """Comparison of the sources that the run imported, and of everything else that its record has of the code."""
    facts, artifacts, now = run.record["facts"], run.folder / "artifacts", provenance.code()
    recorded = sources.recorded(artifacts)
    return Check("code", tuple(_changed_code(facts, artifacts, now, recorded)), _unknown_code(facts, now, recorded))


def _changed_code(
    facts: Mapping[str, str], artifacts: Path, now: Mapping[str, str], recorded: Mapping[str, Any] | None
) -> Iterator[str]:
    before, commit = facts.get("git.commit"), now.get("git.commit")
    if before and commit and before != commit:
        yield f"commit {before[:7]} then, {commit[:7]} now"
    files = recorded["files"] if recorded else {}
    changed = [name for name, digest in files.items() if sources.now(name) != digest]
    yield from (f"{name} differs" for name in changed[:5])
    if len(changed) > 5:
        yield f"and {len(changed) - 5} more files"
    kind: sources.Kind = recorded["snapshot"] if recorded else "all"
    if not (before and commit) or kind == "none":
        return
    present = sources.snapshot(kind, files)
    diff = (artifacts / sources.DIFF_FILE).read_bytes() if (artifacts / sources.DIFF_FILE).exists() else b""
    if sources.without_blobs(diff) != sources.without_blobs(present.diff):
        yield "different uncommitted changes"
    kept = artifacts / sources.UNTRACKED
    old = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    for name in sorted(old | set(present.files)):
        if not (name in old and name in present.files and (kept / name).read_bytes() == present.files[name]):
            yield f"the untracked file {name} differs"


def _unknown_code(facts: Mapping[str, str], now: Mapping[str, str], recorded: Mapping[str, Any] | None) -> str:
    """Why it is not known whether the code is the same; empty if it is."""
    if recorded is None and not (facts.get("git.commit") and now.get("git.commit")):
        reason = now.get("git.unknown", "") if facts.get("git.commit") else facts.get("git.unknown", "")
        return reason or "no code was recorded"
    unseen = [name for name in recorded["left_out"] if name not in recorded["files"]] if recorded else []
    if unseen:
        return f"the record lacks {', '.join(unseen)}"
    return facts.get("git.unrecorded") or now.get("git.unrecorded") or ""


def _memory(run: Run, again: Run) -> Check:
    """Comparison of the micro-batches, of which there are more from the step on at which memory ran out."""
    then, now = (each.tags.get(MICRO_BATCHES, "as declared") for each in (run, again))
    return Check("micro-batches", () if then == now else (f"{then} then, {now} now",))


def _weights(run: Run) -> Iterator[str]:
    """Changes in the pretrained weights that the network started from."""
    then, now = run.record.get("weights"), run.experiment.model.origin()
    pairs = [(then, now)]
    pairs += [(run.record.get("weights_of_method", {}).get(n), o) for n, o in run.experiment.pretrained.items()]
    for then, now in pairs:
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
    refuse_combined(run)
    if "data" not in record:
        raise UserError([f"{run.id} is the parent of other runs; rerun one of those"])
    if record.get("continued"):
        raise UserError([f"{run.id} was continued from {record['continued']}; rerun that run"])
    count, any_number = int(record["facts"].get("hardware.processes", "1")), record["launch"].get("deterministic_ranks")
    if count > 1 and not any_number:
        raise UserError([f"{run.id} was trained by {count} processes; a rerun uses a single process"])
    launch = own_launch(record)
    alone = {"together": False, "threads": int(record["facts"]["hardware.threads"])}
    return launch.but(alone | {"root": root or launch.root})


def rerun_here(run: Run, launch: Launch) -> Run:
    """Train the declaration of a run again, with the present code. Returns the new run."""
    from core.runs.recorder import RunInfo
    from core.runs.train import train

    info = RunInfo(run.record["experiment"], run.record["variant"], f"rerun of {run.id}")
    return train(run.experiment, launch, info, like=run)


def rerun_in_worktree(run: Run, launch: Launch) -> Run:
    """Train the declaration of a run again, with the recorded code in a temporary git worktree. Returns the new run.

    Its id is read from the output. Raises UserError if the code cannot be restored or fails.
    """
    name, known = run.record["experiment"], run.record["launch"]  # the recorded code knows no other options
    options = {key: value for key, value in launch.flat().items() if key in known and value not in (None, ())}
    text = {key: ",".join(value) if isinstance(value, tuple) else str(value) for key, value in options.items()}
    given = [word for key, value in text.items() for word in (f"--{key}", value)]
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
    """Context manager: the folder of labbook in a temporary worktree with the recorded code. Raises UserError."""
    commit, artifacts = run.record["facts"].get("git.commit"), run.folder / "artifacts"
    if not commit:
        reason = run.record["facts"].get("git.unknown")
        raise UserError([f"{run.id}: its record does not contain a commit{f' ({reason})' if reason else ''}"])
    with tempfile.TemporaryDirectory(prefix="labbook-rerun-") as parent:
        top = Path(parent) / "code"
        try:
            folder = top / prefix()
            git("worktree", "add", "--detach", str(top), commit)
            if (artifacts / sources.DIFF_FILE).exists():
                git("apply", "--whitespace=nowarn", str(artifacts / sources.DIFF_FILE), folder=top)
            if (artifacts / sources.UNTRACKED).exists():
                shutil.copytree(artifacts / sources.UNTRACKED, folder, dirs_exist_ok=True)
            _verify(run, folder)
            yield folder
        except GitError as reason:
            raise UserError([f"{run.id}: its code cannot be restored: {reason}"]) from None
        finally:
            with suppress(GitError):
                git("worktree", "remove", "--force", str(top))


def _verify(run: Run, folder: Path) -> None:
    """Raises UserError if the code in a worktree is not what the run imported."""
    recorded = sources.recorded(run.folder / "artifacts") or {"files": {}, "left_out": {}}
    wrong = [name for name, digest in recorded["files"].items() if sources.now(name, folder) != digest]
    if wrong:
        reasons = [f"{name}: {recorded['left_out'].get(name, 'git does not have it as it was')}" for name in wrong[:5]]
        more = [f"and {len(wrong) - 5} more files"] if len(wrong) > 5 else []
        raise UserError([f"{run.id}: its code cannot be restored", *reasons, *more])
    package = Path("experiments", run.record["experiment"])
    if not (folder / package).is_dir():
        raise UserError([f"{run.id}: its code cannot be restored: its commit does not contain {package}"])


def _digest(run: Run) -> str:
    return sha256_of(run.artifact(WEIGHTS)) if (run.folder / "artifacts" / WEIGHTS).exists() else "none"
