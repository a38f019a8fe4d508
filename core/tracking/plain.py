"""Params as values, for trackers that keep numbers as numbers."""

from __future__ import annotations

import json
import math
from typing import Any


def plain(text: str) -> Any:
    """A param as the number, truth value or list that it is; otherwise its text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, float) and not math.isfinite(value) else value
