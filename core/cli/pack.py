"""labbook pack: the data sets' own command, data/pack/pack.py."""

from __future__ import annotations

from collections.abc import Sequence

from core.catalogue import import_data


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    status: int = import_data("data.pack.pack").main(words)
    return status
