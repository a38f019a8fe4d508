"""labbook evaluate: the data sets' own command, data/predict/evaluate.py."""

from __future__ import annotations

from collections.abc import Sequence

from core.catalogue import import_data


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    status: int = import_data("data.predict.evaluate").main(words)
    return status
