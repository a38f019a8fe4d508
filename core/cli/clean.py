"""labbook clean: list the checkpoints of finished runs, which take most of the disk, and remove them (--yes).

Weights, metrics, reports and everything else on record are kept. Only --continue RUN needs the checkpoint of a finished
run. Runs that have not finished keep their checkpoints, because they can be resumed.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.common import paths
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell
from core.common.text import size, suggestion
from core.record import journal, lock
from core.record.ids import named_in
from core.record.run import RecordedRun
from core.record.summary import read_summary
from core.training.checkpoint import CHECKPOINTS

DAY = 24 * 3600


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 0, or 1 if something could not be removed. Raises UserError."""
    parser = VerbParser("clean", __doc__)
    parser.add_argument("experiment", nargs="*", metavar="EXPERIMENT", help="only runs of these experiments")
    parser.add_argument("--older", type=float, default=0.0, metavar="DAYS", help="only runs that ended so long ago")
    parser.add_argument("--yes", action="store_true", help="remove them; without it, they are only listed")
    given = parser.parse_args(list(words))
    if not given.older >= 0 or given.older == float("inf"):
        raise UserError(["--older: the number of days must not be negative"])
    found = list(_finished(given.older))
    known = sorted({named_in(folder.parent.name) for folder in found})
    if unknown := [name for name in given.experiment if name not in known]:
        raise UserError(
            [f"clean: no finished run of {name} has checkpoints{suggestion(name, known)}" for name in unknown]
        )
    chosen = [folder for folder in found if not given.experiment or named_in(folder.parent.name) in given.experiment]
    freed, failed = 0, []
    for name in sorted({named_in(folder.parent.name) for folder in chosen}):
        folders = [folder for folder in chosen if named_in(folder.parent.name) == name]
        taken = 0
        for folder in folders:
            own = sum(path.lstat().st_size for path in folder.iterdir())
            try:
                if given.yes:
                    shutil.rmtree(folder)
                taken += own
            except OSError as error:
                failed.append(f"{folder}: {error.strerror}; left as it is")
        tell(f"{size(taken):>9}  {name}: checkpoints of {len(folders):,} finished run{'s' * (len(folders) != 1)}")
        freed += taken
    tell(f"{size(freed):>9}  in all{': removed' if given.yes else '; labbook clean --yes removes them'}")
    for line in failed:
        tell(line)
    return int(bool(failed))


def _finished(days: float) -> Iterator[Path]:
    """The checkpoint folders of runs that finished at least so many days ago."""
    for path in sorted(paths.runs().glob(f"*/{journal.FILE}")):
        run, folder = RecordedRun(path.parent), path.parent / CHECKPOINTS
        linked = path.parent.is_symlink() or folder.is_symlink()  # what is elsewhere is not of this home
        if (
            folder.is_dir()
            and not linked
            and time.time() - path.stat().st_mtime >= days * DAY
            and lock.is_free(run.folder)
        ):
            with contextlib.suppress(UserError):  # a damaged run keeps what it has
                if (summary := read_summary(run)) and summary["status"] == "FINISHED":
                    yield folder
