"""labbook summary NAME [--graph FILE] [--memory]: layers, shapes, parameters, FLOPs, memory; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.find_experiment import NamedExperiment, only_one, run_verb
from core.diagnostics.summary_options import SummaryOptions
from core.options import Options

OPTIONS = SummaryOptions()


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    return run_verb("summary", words, _summary, OPTIONS)


def _summary(experiment: NamedExperiment, options: Options) -> int:
    from core.diagnostics.model_summary import show, summary

    only_one(options, "summary")
    assert isinstance(options.verb, SummaryOptions)
    show(summary(options.experiment, options.launch, options.verb))
    if options.verb.memory:
        from core.diagnostics.step_memory import report_memory

        report_memory(options.experiment, options.launch, options.verb.available)
    return 0
