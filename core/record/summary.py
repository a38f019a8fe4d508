"""summary.json of a run that has ended: its status and metrics, so that listings need not read the journal."""

from __future__ import annotations

import contextlib
from typing import Any

from core.common.files import write_atomic
from core.common.sealed import sealed, unsealed
from core.record.journal import ENDED
from core.record.run import IMPORTED, PRUNED, RECORD, RecordedRun, holds_others

SUMMARY = "summary.json"


def write_summary(run: RecordedRun, status: str) -> None:
    """Write summary.json. Call before the final status is written to the
    journal: nothing rewrites the summary of a run that has ended.

    whole: the run was trained on all of its data to the end: not a smoke run, pruned trial or parent of several seeds.
    """
    summary = _summarized(run, status)
    with contextlib.suppress(OSError):  # a full disk is tolerated: the journal contains everything
        write_atomic(run.folder / SUMMARY, sealed(summary))


def read_summary(run: RecordedRun) -> dict[str, Any] | None:
    """Returns status, metrics and whole of a run that has ended; None for any other one. A damaged or missing summary
    is computed again from the journal. Raises UserError if that is damaged, too."""
    path = run.folder / SUMMARY
    if not path.is_file():  # of a run that has ended, it may not have fitted onto the disk
        return _summarized(run, status) if (status := run.status) in ENDED else None
    try:
        summary = unsealed(path.read_bytes())
    except (OSError, ValueError):
        summary = {}
    whole = isinstance(summary.get("status"), str) and isinstance(summary.get("metrics"), dict) and "whole" in summary
    return summary if whole else _summarized(run, run.status)


def _summarized(run: RecordedRun, status: str) -> dict[str, Any]:
    recorded = (run.folder / "artifacts" / RECORD).exists()
    imported = recorded and IMPORTED in run.record
    own = recorded and not imported and not holds_others(run.record)
    whole = imported or (own and run.record["declaration"]["limit"] is None and PRUNED not in run.tags)
    metrics = run.metrics
    if own and metrics:
        metrics |= {"seconds": run.seconds}
    return {"status": status, "metrics": metrics, "whole": whole} | ({IMPORTED: True} if imported else {})
