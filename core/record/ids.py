"""Ids of runs: <experiment>-<date>-<time>-<microseconds and a random byte, in hexadecimal>.

In ids of older versions, the last part is random, and runs that began in the same second have no order.
"""

from __future__ import annotations

import re
import secrets
from datetime import datetime

from core.common.errors import UserError

FOLDER_NAME = r"^\w[\w.-]*$"  # what an experiment and a run may be called


def new_id(experiment: str) -> str:
    """Returns an id for a run that begins now. Raises UserError."""
    if not re.fullmatch(FOLDER_NAME, experiment):
        raise UserError([f"experiment: {experiment!r} is not a valid folder name; use letters, digits, - and _"])
    now = datetime.now()
    return f"{experiment}-{now:%Y%m%d-%H%M%S}-{now.microsecond:05x}{secrets.token_hex(1)}"


def named_in(run_id: str) -> str:
    """Returns the name of the experiment in a run id."""
    return run_id.rsplit("-", 3)[0]


def begun(run_id: str) -> tuple[str, ...]:
    """Date, time and last part of a run id; the later run has the larger one."""
    return tuple(run_id.rsplit("-", 3)[1:])
