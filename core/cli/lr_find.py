"""labbook lr_find NAME: learning-rate range test on a copy of the model; nothing is recorded as a run."""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.named import Named, execute, handle_help, named, only_one
from core.command_line import Options
from core.diagnostics.lr_curve import RangeTest

OPTIONS = RangeTest()


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    experiment, rest = named("lr_find", words)
    if handle_help(experiment, rest, OPTIONS):
        return 0
    options = experiment.parse(rest, OPTIONS)
    return execute(experiment, lambda: _lr_find(experiment, options))


def _lr_find(experiment: Named, options: Options) -> int:
    from core.diagnostics.lr_find import lr_find, report

    only_one(options, "lr_find")
    assert isinstance(options.verb, RangeTest)
    report(lr_find(options.experiment, options.launch, options.verb, experiment.name))
    return 0
