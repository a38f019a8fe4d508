"""labbook export RUN --to onnx,openvino,...: the network of a run as files for other engines, measured before they are
kept.

A model takes uint8 images of the run's size and gives probabilities: normalization and test-time augmentation are in
it, and class names, the conversion of images and the id of the run are in its metadata. Beside it are predict.py, which
needs the engine, numpy and Pillow only, and sixteen golden images with expected answers. An export is refused if its
answers for the golden images differ, if it may lose more than --at-most points of accuracy on the validation images, or
if it is slower than eager PyTorch. The exit status is 1 if one is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.catalogue import import_data
from core.cli.sync import send
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.machine import threads_each
from core.common.terminal import complain, console, tell
from core.runs.trained import load


def main(words: Sequence[str]) -> int:
    """Returns the exit status, 1 if an export is refused. Raises UserError."""
    from core.export.formats import ENGINES, EXPORTS, add_lower, chosen

    parser = VerbParser("export", __doc__)
    parser.add_argument("run", metavar="RUN", help="finished run")
    parser.add_argument("--to", default="onnx", metavar="FORMAT,...", help=f"formats: {', '.join(ENGINES)}")
    add_lower(parser)
    parser.add_argument(
        "--at-most", type=float, default=0.2, metavar="POINTS", help="percentage points of accuracy that may be lost"
    )
    parser.add_argument("--anyway", action="store_true", help="keep refused exports, with the reason in their metadata")
    parser.add_argument("--dir", type=Path, help="folder for the exports; default: export/ in the folder of the run")
    parser.add_argument("--threads", type=int, default=threads_each(1), help="threads of each engine")
    parser.add_argument("--root", type=Path, help="folder of the data, if it has moved since training")
    given = parser.parse_args(list(words))
    if not 0 < given.at_most <= 100 or given.threads < 1:
        raise UserError(["--at-most must be more than 0 and at most 100, and --threads at least 1"])
    formats = chosen([name.strip() for name in given.to.split(",") if name.strip()], given.lower)
    run = load(given.run)
    from core.export import table
    from core.export.export import Plan, export, refuse

    refuse(run)
    splits = run.own_splits(given.root)
    conversion = import_data("data.predict.conversion")
    plan = Plan(formats, given.dir or run.folder / EXPORTS, given.at_most / 100, given.anyway, given.threads)
    try:
        found = export(run, splits, conversion.decoder(run), conversion.facts(run), plan, tell)
    except OSError as error:
        said = f"{error.filename or plan.folder}: {error.strerror}" if error.strerror else str(error)
        raise UserError([f"{said}; nothing was replaced"]) from None
    for rows in (table.answers(found.formats), table.latencies(found.latencies)):
        console().print(table.grid(rows))
    refused = [one for one in found.formats if one.refused]
    for one in refused:
        complain(f"{'kept anyway' if given.anyway else 'refused'}: {one.name}: {'; '.join(one.refused)}")
    kept = [one.name for one in found.formats if one.folder]
    if kept:
        tell(f"written to {plan.folder}: {', '.join(kept)}")
    tell(f"recorded; labbook report {run.id} adds the tables to its page")
    send(run)
    return int(bool(refused))
