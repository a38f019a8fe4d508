"""labbook benchmark RUN: latency and throughput of the network of a run in several engines, measured in turns.

Only time is measured, on images of random pixels; nothing is kept. `labbook export` measures the answers, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.machine import threads_each
from core.common.terminal import console
from core.runs.trained import load

DEFAULT = "onnx,openvino"


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    from core.export import table
    from core.export.benchmark import benchmark
    from core.export.export import refuse, source_of
    from core.export.formats import ENGINES, add_lower, chosen

    engines = [name for name in ENGINES if name != "safetensors"]  # weights alone do not run
    parser = VerbParser("benchmark", __doc__)
    parser.add_argument("run", metavar="RUN", help="finished run")
    parser.add_argument(
        "--engines", default=DEFAULT, metavar="ENGINE,...", help=f"beside eager PyTorch: {', '.join(engines)}"
    )
    add_lower(parser)
    parser.add_argument("--threads", type=int, default=threads_each(1), help="threads of each engine")
    parser.add_argument("--root", type=Path, help="folder of the data, for --int8, if it has moved since training")
    given = parser.parse_args(list(words))
    if given.threads < 1:
        raise UserError(["--threads must be at least 1"])
    names = [name.strip() for name in given.engines.split(",") if name.strip()]
    if "safetensors" in names:
        raise UserError(["--engines safetensors: weights alone do not run; leave it out"])
    formats = chosen(names, given.lower)
    run = load(given.run)
    refuse(run)
    splits = run.own_splits(given.root) if "int8" in given.lower else None
    with tempfile.TemporaryDirectory() as folder:
        times = benchmark(source_of(run, splits, formats, 1.0), formats, Path(folder), given.threads)
    console().print(table.grid(table.latencies(times)))
    return 0
