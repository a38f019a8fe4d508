"""Engines by name, as the command line has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.machine import usable_cores
from core.engines.engine import Engine

NAMES = ("local", "dask", "ray")


@contextmanager
def opened(name: str, workers: int | None = None, scheduler: str | None = None) -> Iterator[Engine]:
    """Context manager with an engine of NAMES.

    workers: processes that are started here, or tasks at a time on a cluster; None: one per core, or what the cluster
    has.  scheduler: address of a running cluster of Dask or Ray; None: one is started here. Raises UserError.
    """
    if scheduler and name == "local":
        raise UserError([f"--scheduler {scheduler}: the local engine has none; add --engine dask or --engine ray"])
    if workers is not None and workers < (name != "local"):
        least = "0 or more" if name == "local" else "at least 1"
        raise UserError([f"--workers {workers}: should be {least} with --engine {name}"])
    engine = _named(name, workers, scheduler)
    try:
        yield engine
    finally:
        engine.close()


def add_engine(parser: VerbParser, default: str | None) -> None:
    """Add the options --engine, --workers and --scheduler to a verb."""
    absent = "" if default else "; none: threads of this process"
    parser.add_argument(
        "--engine", choices=NAMES, default=default, help=f"what does the work: local, processes; dask; ray{absent}"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="worker processes; with --scheduler, tasks at a time; default: one per core, or what the cluster has",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a running cluster, tcp://HOST:8786 (Dask) or HOST:6379 (Ray); default: one is started on this machine",
    )


def _named(name: str, workers: int | None, scheduler: str | None) -> Engine:
    if name == "dask":
        from core.engines.dask_engine import Dask

        return Dask(workers, scheduler)
    if name == "ray":
        from core.engines.ray_engine import Ray

        return Ray(workers, scheduler)
    from core.engines.local import Local

    return Local(usable_cores() if workers is None else workers)
