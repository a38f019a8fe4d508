"""labbook rerun RUN: train the same declaration again and check that the result is the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.cli.exits import guarded
from core.common.arguments import VerbParser
from core.common.terminal import tell
from core.runs.rerun import check_environment, compare_results, launch_of, rerun_here, rerun_in_worktree
from core.runs.trained import Run, load


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 0 if the result is the same up to rounding, else 1. Raises UserError."""
    parser = VerbParser("rerun", __doc__)
    parser.add_argument("run", metavar="RUN", help="finished run")
    parser.add_argument("--root", type=Path, help="folder of the data, if it has moved since training")
    parser.add_argument("--worktree", action="store_true", help="use the recorded code, in a temporary git worktree")
    given = parser.parse_args(list(words))
    run = load(given.run)
    return guarded(f"python -m experiments.{run.record['experiment']}", lambda: _rerun(run, given.root, given.worktree))


def _rerun(run: Run, root: Path | None, worktree: bool) -> int:
    launch = launch_of(run, root)
    checks = [one for one in check_environment(run, launch) if not (worktree and one.what == "code")]
    for check in checks:
        tell(str(check))
    if worktree:
        tell("running the recorded code in a worktree")
    elif any(check.what == "code" and check.differences for check in checks):
        tell("to run the recorded code: --worktree")
    again = rerun_in_worktree(run, launch) if worktree else rerun_here(run, launch)
    _show(run, again)
    verdict = compare_results(run, again, checks)
    tell(verdict.text)
    return 0 if verdict.close else 1


def _show(run: Run, again: Run) -> None:
    """Print the final validation and test metrics next to the recorded ones."""
    before, after = run.metrics, again.metrics
    names = [name for name in before if name.startswith(("val/", "test/")) and name in after]
    width = max(map(len, names), default=0)
    tell(f"{'':{width}}  {'recorded':>14}  {'now':>14}")
    for name in sorted(names):
        same = "" if before[name] == after[name] else f"  {after[name] - before[name]:+.3g}"
        tell(f"{name:{width}}  {before[name]:14.9g}  {after[name]:14.9g}{same}")
