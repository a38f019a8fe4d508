"""labbook summary NAME: layers, output shapes, parameters, FLOPs; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.named import execute, handle_help, named, only_one
from core.command_line import Options


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    experiment, rest = named("summary", words)
    if handle_help(experiment, rest):
        return 0
    options = experiment.parse(rest)
    return execute(experiment, lambda: _summary(options))


def _summary(options: Options) -> int:
    from core.diagnostics.model_summary import show, summary

    only_one(options, "summary")
    show(summary(options.experiment, options.launch))
    return 0
