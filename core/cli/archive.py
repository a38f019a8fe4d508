"""labbook archive RUN ...: leave runs out of labbook runs, list and figures, and of comparisons of their experiment.

Nothing is removed. A run that is named is still compared and shown, and decisions keep counting it. With a parent, its
runs are archived. MLflow gets the tag labbook.archived.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.tag import put
from core.common.arguments import VerbParser
from core.common.terminal import tell
from core.record.labels import ARCHIVED
from core.record.run import RecordedRun, with_children


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("archive", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="runs")
    parser.add_argument("--undo", action="store_true", help="take them back")
    given = parser.parse_args(list(words))
    runs = with_children([RecordedRun.load(word) for word in given.runs])
    put(runs, {ARCHIVED: "" if given.undo else "true"})
    for run in runs:
        tell(f"{run.id}: {'back' if given.undo else 'archived'}")
    return 0
