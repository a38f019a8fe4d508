"""labbook lr_find NAME: learning-rate range test on a copy of the model; nothing is recorded as a run."""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.find_experiment import NamedExperiment, only_one, run_verb
from core.diagnostics.lr_curve import RangeTest
from core.options import Options

OPTIONS = RangeTest()


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    return run_verb("lr_find", words, _lr_find, OPTIONS)


def _lr_find(experiment: NamedExperiment, options: Options) -> int:
    from core.diagnostics.lr_find import lr_find, report

    only_one(options, "lr_find")
    assert isinstance(options.verb, RangeTest)
    report(lr_find(options.experiment, options.launch, options.verb, experiment.name))
    return 0
