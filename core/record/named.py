"""The word `latest` in a declaration, which must name the same run tomorrow."""

from __future__ import annotations

from pathlib import Path

from core.common.errors import UserError
from core.record.latest import LATEST
from core.record.run import RecordedRun


def id_of_latest(name: str) -> str:
    """The id of the run that `latest`, `EXPERIMENT/latest` or a link of this name means, which may be another run
    tomorrow; any other name, and what is not found, as it is."""
    if Path(name).name != LATEST:
        return name
    try:
        return RecordedRun.load(name).id
    except UserError:
        return name
