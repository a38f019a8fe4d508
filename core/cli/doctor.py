"""labbook doctor: what this machine can do before anything trains; each line is tried, not looked up.

Python, torch, GPUs, an all-reduce over two processes with gloo and nccl, bf16, free disk and shared memory, the MLflow
store, the clock, and the address at which several machines meet. Nothing is left behind.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import tell


def main(words: Sequence[str]) -> int:
    """Returns the exit status: 0, or 1 if something would fail. Raises UserError."""
    from core.diagnostics.doctor import FEW_GB, Asked, checks

    parser = VerbParser("doctor", __doc__)
    parser.add_argument("--address", metavar="HOST:PORT", help="where processes meet; none: MASTER_ADDR, MASTER_PORT")
    parser.add_argument(
        "--need_gb", type=float, default=FEW_GB, metavar="GB", help="free space that the home and the temp folder need"
    )
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="longest wait of one check")
    parser.add_argument("--json", action="store_true", help="a list of the checks in JSON, for programs")
    given = parser.parse_args(list(words))
    if not 0 < given.timeout < float("inf"):
        raise UserError([f"--timeout: should be a positive number of seconds (got {given.timeout:g})"])
    if not 0 <= given.need_gb < float("inf"):
        raise UserError([f"--need_gb: should be a number of gigabytes, 0 or more (got {given.need_gb:g})"])
    found = []
    for check in checks(Asked(given.need_gb, given.address, given.timeout)):
        found.append(check)
        if not given.json:
            tell(f"{check.state:<4}  {check.name:<10}  {check.found}")
            if check.fix:
                tell(f"{'':<18}fix: {check.fix}")
    failed = [check.name for check in found if check.state == "fail"]
    if given.json:
        tell(json.dumps([asdict(check) for check in found], indent=2))
    else:
        tell(f"{len(failed)} of {len(found)} checks failed: {', '.join(failed)}" if failed else "nothing would fail")
    return int(bool(failed))
