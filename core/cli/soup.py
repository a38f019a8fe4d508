"""labbook soup RUN ...: average the weights of runs that started from the same ones, and put the network on record.

All runs are averaged, or those that do not make the result on val worse (Wortsman et al. 2022). They need the same
network and data, and the same start: the same pretrained weights, or the same seed. The statistics of BatchNorm are
recomputed over the training images; test is answered once. RUN may also be the parent of several runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.cli.ensemble import add_options, report
from core.common.arguments import VerbParser
from core.common.errors import UserError


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 1 if a single run is better than any soup, else 0. Raises UserError."""
    from core.runs.members import members
    from core.runs.soup import soup

    parser = VerbParser("soup", __doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="finished run, or parent of several")
    parser.add_argument("--greedy", action="store_true", help="leave out runs that make it worse on val; the default")
    parser.add_argument("--uniform", action="store_true", help="take all runs")
    add_options(parser)
    parser.add_argument("--root", type=Path, help="folder of the data, if it has moved since training")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps; default: that of the best run")
    given = parser.parse_args(list(words))
    if given.greedy and given.uniform:
        raise UserError(["--greedy and --uniform exclude each other"])
    runs, device = members(given.run), given.device
    return report(soup(runs, given.uniform, given.metric, given.root, device, given.name), "soup", not given.uniform)
