"""labbook summary NAME: layers, output shapes, parameters, FLOPs; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.named import acted, helped, named, only_one
from core.command_line import Options


def main(words: Sequence[str]) -> int:
    """The exit status. Raises UserError."""
    experiment, rest = named("summary", words)
    if helped(experiment, rest):
        return 0
    options = experiment.parse(rest)
    return acted(experiment, lambda: _summary(options))


def _summary(options: Options) -> int:
    from core.diagnostics.model_summary import show, summary

    only_one(options, "summary")
    show(summary(options.experiment, options.launch))
    return 0
