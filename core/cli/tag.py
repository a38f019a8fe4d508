"""labbook tag RUN ... NAME=TEXT ...: set tags of runs, also of those that are being trained; NAME= removes a tag.

Without NAME=TEXT, the tags are shown. MLflow gets them at once, or with labbook sync.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell
from core.record.labels import labels, own_tags, tag_texts, write_labels
from core.record.run import MIRROR, RecordedRun
from core.tracking.api import held, sync


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("tag", __doc__)
    parser.add_argument("words", nargs="+", metavar="RUN|NAME=TEXT", help="runs, and the tags that they get")
    given = parser.parse_args(list(words))
    tags = tag_texts(word for word in given.words if "=" in word)
    runs = [RecordedRun.load(word) for word in given.words if "=" not in word]
    if not runs:
        raise UserError([f"RUN is missing; usage: {parser.usage_line()}"])
    if wrong := [line for run in runs for line in own_tags(run, tags)]:
        raise UserError(wrong)
    if tags:
        put(runs, tags)
    for run in runs:
        shown = ", ".join(f"{name}={text}" for name, text in labels(run.folder).tags.items())
        tell(f"{run.id}: {shown or 'no tags'}")
    return 0


def put(runs: Sequence[RecordedRun], texts: Mapping[str, str]) -> None:
    """Write labels of runs, and send them to MLflow where it has the run. Raises UserError."""
    for run in runs:
        write_labels(run.folder, texts)
    # a mirror that is sending a run also sends what is added to it
    mirrored = [run.folder for run in runs if (run.folder / MIRROR).exists() and not held(run.folder)]
    try:
        late = [status for status in sync(mirrored, patience=10.0) if not status.complete]
    except UserError as mistakes:
        tell(f"not in MLflow yet ({mistakes}); to send it: labbook sync")
    else:
        for status in late:
            tell(f"{status.run}: not in MLflow yet ({status.why}); to send it: labbook sync")
