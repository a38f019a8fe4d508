"""labbook probe NAME: k-nearest-neighbor and linear probe on the features of a network; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from core.cli.find_experiment import NamedExperiment, only_one, run_verb
from core.diagnostics.probe_options import Probe
from core.options import Options

OPTIONS = Probe()


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    return run_verb("probe", words, _probe, OPTIONS)


def _probe(experiment: NamedExperiment, options: Options) -> int:
    from core.diagnostics.probe import probe, report

    only_one(options, "probe")
    assert isinstance(options.verb, Probe)
    report(probe(options.experiment, options.launch, options.verb))
    return 0
