"""labbook train NAME: train an experiment; the same as `python -m experiments.NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.cli import decide, processes
from core.cli.find_experiment import NamedExperiment, find_experiment, run_verb
from core.common.ranks import invocation, is_restart
from core.common.terminal import tell
from core.options import Options


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    if decide.is_decided(words) and "--help" not in words:
        experiment, rest = find_experiment("train", words)
        return decide.run(decide.parse_variants(experiment, rest))
    processes.taken(words)  # what is wrong is said before this process waits for others

    def action(experiment: NamedExperiment, options: Options) -> int:
        if processes.to_start(options.processes):
            return processes.run_together(options.processes or 1, [experiment.module.__name__, "train", *words[1:]])
        return train(experiment, options)

    return run_verb("train", words, action)


def train(experiment: NamedExperiment, options: Options) -> int:
    """Train an experiment, or resume the run of an earlier start of the same job. Returns the exit status."""
    from core.cli.outcome import report_result
    from core.cli.resume import resumed
    from core.runs.resume import earlier_run
    from core.runs.seeds import train_folds, train_seeds
    from core.runs.train import train
    from core.training.distributed import from_first, met_before

    seeds = options.seeds or 1
    again = is_restart() or met_before()
    asked = options.experiment, experiment.name, invocation(), seeds, options.folds
    earlier = earlier_run(*asked, any_batch_size=options.auto_batch) if again else None
    earlier, finished = from_first((earlier, earlier is not None and earlier.status == "FINISHED"))
    if earlier:
        tell(f"{earlier.id}, started by an earlier start of this job, {'has finished' if finished else 'is resumed'}")
        return 0 if finished else resumed(earlier)
    options = _sized(options) if options.auto_batch else options
    info = experiment.info(options)
    if options.folds:
        return report_result(train_folds(options.experiment, options.folds, options.launch, info))
    if seeds > 1:
        return report_result(train_seeds(options.experiment, seeds, options.launch, info))
    return report_result(train(options.experiment, options.launch, info, continued=options.continued))


def _sized(options: Options) -> Options:
    """Options with the largest batch that fits, as a number. Raises UserError."""
    from core.diagnostics.batch_size import largest_batch

    size = largest_batch(options.experiment, options.launch)
    sized = options.experiment.but({"batch_size": size})
    return replace(options, experiment=sized, title=f"{options.title} batch_size={size}")
