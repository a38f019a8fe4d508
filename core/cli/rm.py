"""labbook rm RUN ...: remove runs from the record, after showing what is freed and asking.

A run that others stand on is not removed: the parent of other runs, one that another run continues, takes its weights
or its teacher from, or was combined from, and one whose model is registered in MLflow. MLflow keeps its own run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import is_terminal, tell
from core.common.text import size
from core.record.removal import refuse_needed, remove, size_of
from core.record.run import MIRROR, RecordedRun, with_children
from core.tracking.api import held
from core.tracking.registered import models_of

MOST_LISTED = 20


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 0, or 1 if the answer was no. Raises UserError."""
    parser = VerbParser("rm", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs")
    parser.add_argument("--children", action="store_true", help="with a parent, also the runs below it")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    given = parser.parse_args(list(words))
    named = [RecordedRun.load(word) for word in given.runs]
    runs = with_children(named) if given.children else list({run.id: run for run in named}.values())
    refuse_needed(runs)
    if wrong := [f"{run.id}: MLflow's mirror is sending this run; try again later" for run in runs if held(run.folder)]:
        raise UserError(wrong)
    registered = models_of(run.folder for run in runs)
    if wrong := [f"{run} is needed by the registered model {', '.join(names)}; delete that first in MLflow"
                 for run, names in registered.items()]:  # fmt: skip
        raise UserError(wrong)
    sizes = {run.id: size_of(run) for run in runs}
    for run_id, count in list(sizes.items())[:MOST_LISTED]:
        tell(f"{size(count):>9}  {run_id}")
    if len(sizes) > MOST_LISTED:
        tell(f"{'':>9}  and {len(sizes) - MOST_LISTED:,} more")
    total = f"{len(runs):,} run{'s' * (len(runs) != 1)}, {size(sum(sizes.values()))}"
    mirrored = [run.folder.name for run in runs if (run.folder / MIRROR).exists()]
    if mirrored:
        tell(f"MLflow keeps its own copy of {len(mirrored):,} of them; delete it on MLflow's pages")
    if not given.yes and not _agrees(total):
        tell("nothing was removed")
        return 1
    remove(runs)
    tell(f"removed: {total}")
    return 0


def _agrees(total: str) -> bool:
    """Whether the user wants to continue. Raises UserError where nobody can be asked."""
    if not (is_terminal() and sys.stdin is not None and sys.stdin.isatty()):
        raise UserError([f"{total}: not removed, because nobody can be asked here; --yes removes them without asking"])
    return input(f"Remove {total}, for good? [y/N] ").strip().lower() in ("y", "yes")
