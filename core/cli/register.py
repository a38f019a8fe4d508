"""labbook register RUN NAME: add the best epoch's model of a run to MLflow's model registry, ready to be served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell
from core.export.formats import EXPORTS
from core.export.register import Registered, _epoch, register
from core.runs.trained import Run, load


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("register", __doc__)
    parser.add_argument("run", metavar="RUN", help="finished run")
    parser.add_argument("name", metavar="NAME", help="name of the registered model; an existing one gets a new version")
    parser.add_argument("--alias", default="champion", help="alias of this version")
    parser.add_argument(
        "--export", metavar="FORMAT|DIR", help="an export of the run, such as onnx-int8; default: a new one as pt2"
    )
    given = parser.parse_args(list(words))
    run = load(given.run)
    done = register(run, given.name, given.alias, _export(run, given.export) if given.export else None)
    for line in _lines(run, done):
        tell(line)
    return 0


def _export(run: Run, given: str) -> Path:
    """The folder of an export, named by its format or by its path. Raises UserError."""
    inside = run.folder / EXPORTS / given
    if inside.is_dir() or not Path(given).is_dir():
        if not inside.is_dir():
            raise UserError([f"--export {given}: {run.id} has no such export; labbook export {run.id} writes one"])
        return inside
    return Path(given)


def _lines(run: Run, done: Registered) -> Iterator[str]:
    accuracy, limit = run.metrics.get("test/accuracy"), run.record["declaration"].get("limit")
    tested = f", test accuracy {accuracy:.2%}" if accuracy is not None else ", not tested"
    what = f"version {done.version} of {done.name}: {run.id}, weights of epoch {_epoch(run)}{tested}"
    yield f"registered: {what}" if done.new else f"registered already: {what}"
    if limit is not None:
        yield f"the run was trained with at most {limit} images of each split"
    moved = "" if done.before in (None, done.version) else f" (before: version {done.before})"
    yield f"alias: {done.alias} points to version {done.version}{moved}"
    yield f"serve: {done.command}"
