"""labbook summary NAME [--graph FILE]: layers, output shapes, parameters, FLOPs; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.find_experiment import NamedExperiment, only_one, run_verb
from core.diagnostics.drawing import Drawing
from core.options import Options

OPTIONS = Drawing()


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    return run_verb("summary", words, _summary, OPTIONS)


def _summary(experiment: NamedExperiment, options: Options) -> int:
    from core.diagnostics.model_summary import show, summary

    only_one(options, "summary")
    assert isinstance(options.verb, Drawing)
    show(summary(options.experiment, options.launch, options.verb))
    return 0
