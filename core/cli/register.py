"""labbook register RUN NAME: add the best epoch's model of a run to MLflow's model registry, ready to be served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from core.common.arguments import VerbParser
from core.common.terminal import tell
from core.runs.trained import Run, load
from core.serving.register import Registered, _epoch, register


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("register", __doc__)
    parser.add_argument("run", metavar="RUN", help="finished run")
    parser.add_argument("name", metavar="NAME", help="name of the registered model; an existing one gets a new version")
    parser.add_argument("--alias", default="champion", help="alias of this version")
    given = parser.parse_args(list(words))
    run = load(given.run)
    done = register(run, given.name, given.alias)
    for line in _lines(run, done):
        tell(line)
    return 0


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
