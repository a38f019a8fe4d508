"""labbook report RUN: write the report page of a finished run again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from core.cli.sync import send
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell
from core.launch import Launch
from core.record.journal import Journal
from core.record.lock import locked
from core.record.run import REPORT, holds_others
from core.runs.trained import Run, declared, load

ENOUGH = 24 * 3600.0  # s: the user requested the report, so no part is sampled or skipped


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("report", __doc__)
    parser.add_argument("run", metavar="RUN", help="finished run")
    parser.add_argument("--root", type=Path, help="folder of the data, if it has moved since training")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or mps; auto: the fastest one available")
    parser.add_argument("--json", action="store_true", help="print JSON, and everything else to standard error")
    given = parser.parse_args(list(words))
    run = load(given.run)
    _refuse(run)
    launch = Launch.read(run.record["launch"])
    launch = launch.but({"device": given.device, "root": given.root or launch.root})
    with redirect_stdout(sys.stderr) if given.json else nullcontext():
        path = report(run, launch)
        tell(str(path))
        send(run)
    if given.json:
        print(json.dumps({"run": run.id, "report": str(path)}))
    return 0


def report(run: Run, launch: Launch) -> Path:
    """Write the report page of a finished run, replacing an earlier one. Returns its path. Raises UserError."""
    from core.inference.network import network_of
    from core.report.write import make
    from core.training.assemble import studied

    splits = run.splits(launch)
    network = network_of(run, launch.device)
    with locked(run.folder):
        journal = Journal(run.folder)
        make(journal, run, network, studied(run.experiment, splits), ENOUGH)
        path = journal.artifact(REPORT)
        journal.close(None)
    return path


def _refuse(run: Run) -> None:
    declared(run.record)
    if holds_others(run.record):
        raise UserError([f"{run.id} is the parent of other runs; to compare them: labbook compare {run.id}"])
    if run.status != "FINISHED":
        raise UserError([f"{run.id} is {run.status}: a report requires a finished run"])
    run.refuse_tasks("the report does")
    if run.multi_label:
        raise UserError([f"{run.id}: reports do not support images with several labels"])
    if not run.is_tested:
        raise UserError(
            [f"{run.id} has no test results (trials of a search are not tested); train it with --from {run.id}"]
        )
