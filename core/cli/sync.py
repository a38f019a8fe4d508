"""labbook sync [RUN ...]: send what MLflow, or another tracker, does not have yet of all runs, or of those named."""

from __future__ import annotations

from collections.abc import Sequence

from core.common import paths
from core.common.arguments import VerbParser
from core.common.terminal import tell
from core.launch import Launch
from core.record import journal
from core.runs.trained import Run, load
from core.tracking.api import default_uri, sync, tracking_uri
from core.tracking.destinations import DESTINATIONS, MLFLOW


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 0 if the tracker has all of the runs but those that were deleted in it, else 1. Raises
    UserError."""
    parser = VerbParser("sync", __doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs to send; without any, all runs on record")
    parser.add_argument(
        "--to", choices=list(DESTINATIONS), default=MLFLOW.name, help="tracker; wandb: offline runs (default: mlflow)"
    )
    given = parser.parse_args(list(words))
    to = DESTINATIONS[given.to]
    if to == MLFLOW and tracking_uri() == default_uri():
        from core.tracking.repair import repair_store

        for line in repair_store():
            tell(line)
    every = sorted(path.parent for path in paths.runs().glob(f"*/{journal.FILE}"))
    statuses = sync([load(word).folder for word in given.runs] or every, to=to)
    for status in statuses:
        for refused in status.refused:
            tell(f"{status.run}: {to.title} refused {refused}")
        if status.deleted:
            tell(f"{status.run}: {status.why}")
        elif not status.complete:
            tell(f"{status.run}: {status.waiting} entries not sent yet: {status.why}")
    complete, deleted = sum(status.complete for status in statuses), sum(status.deleted for status in statuses)
    aside = f"; {deleted} deleted there" if deleted else ""
    tell(f"{complete} of {len(statuses)} runs are complete in {to.place()}{aside}")
    return 0 if complete + deleted == len(statuses) else 1


def send(run: Run) -> None:
    """Send what was added to a run to MLflow, if the run was sent there, and print whether it arrived."""
    if Launch.read(run.record["launch"]).mlflow:
        for status in sync([run.folder], patience=10.0):
            tell(f"not in MLflow yet ({status.why}); to send it: labbook sync" if status.why else "sent to MLflow")
