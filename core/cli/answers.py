"""labbook answers RUN ...: compute the answers of finished runs that have none, because they are older than answers.

The data are read again, and must be those that the run was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell
from core.inference.answers import ask, log_answers, name_of
from core.record.journal import Journal
from core.record.lock import locked
from core.record.run import holds_others
from core.runs.trained import Run, declared, load


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("answers", __doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="finished run")
    parser.add_argument("--root", type=Path, help="folder of the data, if it has moved since training")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or mps; auto: the fastest one available")
    given = parser.parse_args(list(words))
    for run in map(load, given.run):
        compute(run, given.root, given.device)
    return 0


def compute(run: Run, root: Path | None, device: str) -> None:
    """Compute and record the answers of a run for val and test. Raises UserError."""
    from core.inference.network import network_of

    declared(run.record)
    if holds_others(run.record) or run.status != "FINISHED":
        raise UserError([f"{run.id}: answers require a finished run with a network of its own"])
    splits = run.own_splits(root)
    network = network_of(run, device)
    with locked(run.folder):
        journal = Journal(run.folder)
        for split, images in (("val", splits.val), ("test", splits.test)):
            answers = ask(network, images, split, splits.classes, tasks=splits.tasks)
            log_answers(journal, name_of(split), answers)
            tell(f"{run.id}: {len(answers):,} answers for {split}")
        journal.close(None)
