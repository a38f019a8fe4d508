"""labbook ensemble RUN ...: choose the runs whose mean answer is best on val, and put it on record as a run.

Runs are drawn greedily and with replacement (Caruana et al. 2004), by their val answers on record; test is then
answered once, by the mean of their answers. RUN may also be the parent of several runs, which stands for those that
have finished. The ensemble can be evaluated, predicted with, registered and compared like any run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from core.cli.sync import send
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell

if TYPE_CHECKING:
    from core.runs.combine import Selection


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 1 if a single run is better than any ensemble, else 0. Raises UserError."""
    from core.runs.ensemble import SIZE, ensemble
    from core.runs.members import members

    parser = VerbParser("ensemble", __doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="finished run, or parent of several")
    parser.add_argument("--size", type=int, default=SIZE, metavar="K", help="number of draws")
    add_options(parser)
    given = parser.parse_args(list(words))
    if given.size < 1:
        raise UserError([f"--size {given.size}: should be at least 1"])
    return report(ensemble(members(given.run), given.metric, given.size, given.name), "ensemble")


def add_options(parser: VerbParser) -> None:
    """The options that an ensemble and a soup have in common."""
    parser.add_argument(
        "--metric",
        default="accuracy",
        metavar="NAME",
        help="metric on val that decides, as of labbook metric; of equal values, nll decides",
    )
    parser.add_argument("--name", metavar="TEXT", help="name of the new run, for display")


def report(made: Selection, kind: str, chosen: bool = True) -> int:
    """Print what was made, and send it to MLflow if its runs were sent there. chosen: not all runs were taken
    unseen. Returns the exit status."""
    for line in _lines(made, kind, chosen):
        tell(line)
    if made.run is None:
        return 1
    send(made.run)
    return 0


def _lines(made: Selection, kind: str, chosen: bool) -> Iterator[str]:
    if made.run is None:
        (alone,) = made.members
        yield f"no {kind} is better than {alone} alone by val/{made.metric}: nothing was recorded"
        return
    yield f"{kind} of {len(made.members)} runs{f', chosen by val/{made.metric}' if chosen else ''}:"
    width = max(map(len, made.members))
    yield from (f"  {name:{width}}  {weight:.3f}" for name, weight in made.members.items())
    for split, found in (("val", made.val), ("test", made.test)):
        assert found is not None
        interval = f"95 % interval over images {found.low:+.4f} to {found.high:+.4f}"
        yield f"{split}/{made.metric}: {found.value:.4f}, {found.difference:+.4f} against {made.best} ({interval})"
    optimistic = f"; the {kind} was chosen on val, so its gain there is optimistic" if chosen else ""
    yield f"{made.best} is the best of the runs on val{optimistic}"
    yield f"record: {made.run.folder}"
