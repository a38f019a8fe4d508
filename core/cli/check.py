"""labbook check: the data sets' own command, data/check/check.py."""

from __future__ import annotations

from collections.abc import Sequence

from core.catalogue import import_data


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    status: int = import_data("data.check.check").main(words)
    return status
