"""labbook note RUN TEXT: set the note of a run, in place of an earlier one; an empty text removes it.

Without TEXT, the note is shown. MLflow shows it as the description of the run.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.tag import put
from core.common.arguments import VerbParser
from core.common.terminal import tell
from core.record.labels import NOTE, labels
from core.record.run import RecordedRun


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("note", __doc__)
    parser.add_argument("run", metavar="RUN", help="run, also one that is being trained")
    parser.add_argument("text", nargs="?", metavar="TEXT", help="note, in Markdown if you like")
    given = parser.parse_args(list(words))
    run = RecordedRun.load(given.run)
    if given.text is not None:
        put([run], {NOTE: given.text.strip()})
    tell(f"{run.id}: {labels(run.folder).note or 'no note'}")
    return 0
