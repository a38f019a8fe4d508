"""labbook sync [RUN ...]: send to MLflow what it lacks, of all runs or of those named."""

from __future__ import annotations

from collections.abc import Sequence

from core.common import paths
from core.common.text import public
from core.record import journal
from core.runs.trained import load
from core.tracking.api import sync, tracking_uri


def main(words: Sequence[str]) -> int:
    """Exit status 0, or 1 where something still waits. Raises UserError."""
    every = sorted(path.parent for path in paths.runs().glob(f"*/{journal.FILE}"))
    standings = sync([load(word).folder for word in words] or every)
    for standing in standings:
        for refused in standing.refused:
            print(f"{standing.run}: MLflow refused {refused}")
        if not standing.complete:
            print(f"{standing.run}: {standing.waiting} entries wait: {standing.why}")
    complete = sum(standing.complete for standing in standings)
    print(f"{complete} of {len(standings)} runs are complete in {public(tracking_uri())}")
    return 0 if complete == len(standings) else 1
