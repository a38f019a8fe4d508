"""What of the record of a run can be given away: without paths and names of machines, and without secrets."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import Any

from core.common.text import public
from core.record.run import RECORD, RecordedRun
from core.record.secret_scan import suspicious

FOLDER = "record"
PACKAGES = "packages.txt"
_MACHINE = ("hardware.host", "invocation")  # facts that name a machine or a process
# an absolute path, or one in the home of a user, also in a URI without a host; its last part stays
_PATH = re.compile(r"(?<![\w.:/~])(?:[a-z+]+://)?~?(?:/+[^\s/\"'`,;:()<>|]+)+/?")


def files(run: RecordedRun) -> tuple[dict[str, str], dict[str, str]]:
    """({name: text} of the files that can be given away, {name: why it is left out}). Raises UserError.

    record.json is the record, in which paths are cut to their last part; history.csv has the metrics of the journal,
    and packages.txt the installed packages.
    """
    found = {RECORD: json.dumps(record(run), indent=2) + "\n", "history.csv": _history(run)}
    if (run.folder / "artifacts" / PACKAGES).exists():
        found[PACKAGES] = run.artifact(PACKAGES).read_text()
    left_out = suspicious({name: text.encode() for name, text in found.items()})
    return {name: text for name, text in found.items() if name not in left_out}, left_out


def record(run: RecordedRun) -> dict[str, Any]:
    """The record of a run without paths and names of machines."""
    facts = {name: text for name, text in run.record["facts"].items() if name not in _MACHINE}
    shown: dict[str, Any] = _shown({**run.record, "facts": facts})
    return shown


def shown(text: str) -> str:
    """The text with each absolute path cut to its last part, and without passwords."""
    return _PATH.sub(lambda found: f"***/{found[0].rstrip('/').rpartition('/')[2]}", public(text))


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if isinstance(value, str) and value.startswith(("/", "~/")) and "\n" not in value:  # also with spaces
        return f"***/{value.rstrip('/').rpartition('/')[2]}"
    return shown(value) if isinstance(value, str) else value


def _history(run: RecordedRun) -> str:
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(["metric", "step", "value"])
    rows.writerows([name, step, value] for name, points in run.history.items() for step, value in points.items())
    return stream.getvalue()
