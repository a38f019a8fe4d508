"""labbook search NAME: search hyperparameters over an experiment's SPACE; the same command resumes the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.cli.find_experiment import NamedExperiment, only_one, run_verb
from core.common.errors import UserError
from core.options import Options
from core.search.options import Search

OPTIONS = Search()


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    return run_verb("search", words, _search, OPTIONS)


def _search(experiment: NamedExperiment, options: Options) -> int:
    from core.cli.outcome import report_search
    from core.search.search import search

    assert isinstance(options.verb, Search)
    if options.seeds and not options.verb.confirm:
        raise UserError(
            ["--seeds: only together with --confirm K, which retrains the K best trials; --race gives trials more"]
        )
    only_one(replace(options, seeds=None, name="", tags={}), "search")
    if not (space := getattr(experiment.module, "SPACE", None)):
        place = f"experiments/{experiment.name}/__init__.py"
        advice = f"declare one in {place}: SPACE = {{'optimizer.lr': Float(0.01, 1, log=True)}}"
        raise UserError([f"{experiment.name} has no SPACE to search; {advice}, with from core.search import Float"])
    info = experiment.info(options)
    found = search(options.experiment, space, options.verb, options.launch, info, options.seeds or 3)
    report_search(found, experiment.command)
    return 0
