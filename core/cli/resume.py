"""labbook resume RUN|EXPERIMENT: resume an interrupted run; of an experiment, the latest one."""

from __future__ import annotations

from collections.abc import Sequence

from core.catalogue import experiments
from core.cli import processes
from core.cli.exits import guarded
from core.cli.find_experiment import NamedExperiment, execute, find_experiment, handle_help
from core.common.errors import UserError
from core.common.ranks import ranks_here
from core.runs.trained import Run, load


def main(words: Sequence[str]) -> int:
    """Returns the exit status. Raises UserError."""
    words, count = processes.taken(words)
    if words and "." not in words[0] and words[0] not in experiments():
        if len(words) > 1 or words[0].startswith("-"):
            raise UserError([f"{' '.join(words)}: resume takes one run or one experiment, without options"])
        command = f"python -m experiments.{load(words[0]).record['experiment']}"
        return guarded(command, lambda: _start(count, ["core", "resume", *words], words[0]))
    experiment, rest = find_experiment("resume", words)
    if handle_help(experiment, rest):
        return 0
    if len(rest) > 1 or (rest and rest[0].startswith("-")):
        raise UserError(
            [f"{' '.join(rest)}: resume takes one run, or none for the latest interrupted one, without options"]
        )
    again = [experiment.module.__name__, "resume", *rest]
    return execute(experiment, lambda: _start(count, again, rest[0] if rest else experiment))


def _start(count: int | None, again: list[str], which: str | NamedExperiment) -> int:
    """Resume a run in this process, or in `count` processes, which get the words `again`."""
    if processes.to_start(count):
        return processes.run_together(count or 1, [*again, "--processes", str(count)])
    return _resume(which)


def _resume(which: str | NamedExperiment) -> int:
    from core.record.run import PAUSED, in_study
    from core.runs.resume import interrupted
    from core.training.distributed import from_first, together

    def find() -> Run | None:
        if ranks_here().rank:
            return None
        return load(which) if isinstance(which, str) else interrupted(which.name)

    run = from_first(together(find))
    assert run is not None
    if in_study(run):
        how = "with more --trials may resume it" if run.tags.get(PAUSED) == "true" else "resumes it"
        raise UserError([f"{run.id} belongs to a study: the same search command {how}"])
    return resumed(run)


def resumed(run: Run) -> int:
    """Resume a run, or all seeds or folds of a parent run, and print the result. Returns the exit status."""
    from core.cli.outcome import report_result
    from core.record.run import holds_others
    from core.runs.resume import resume
    from core.runs.seeds import resume_seeds

    return report_result(resume_seeds(run) if holds_others(run.record) else resume(run))
