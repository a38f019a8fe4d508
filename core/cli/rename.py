"""labbook rename RUN NAME: give a run a name for people; its id, by which verbs find it, stays."""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.tag import put
from core.common.arguments import VerbParser
from core.common.terminal import tell
from core.record.labels import NAME, checked_name
from core.record.run import RecordedRun


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("rename", __doc__)
    parser.add_argument("run", metavar="RUN", help="run, also one that is being trained")
    parser.add_argument("name", metavar="NAME", help="name, which need not be unique; MLflow shows it, too")
    given = parser.parse_args(list(words))
    run, name = RecordedRun.load(given.run), checked_name(given.name)
    put([run], {NAME: name})
    tell(f"{run.id}: {name}")
    return 0
