"""labbook resume RUN|NAME: finish an interrupted run; of an experiment, the latest one."""

from __future__ import annotations

from collections.abc import Sequence

from core.catalogue import experiments
from core.cli.exits import guarded
from core.cli.experiment import Named, acted, helped, named
from core.common.errors import UserError
from core.common.ranks import ranks_here
from core.runs.trained import Run, load


def main(words: Sequence[str]) -> int:
    """The exit status. Raises UserError."""
    if words and "." not in words[0] and words[0] not in experiments():
        if len(words) > 1 or words[0].startswith("-"):
            raise UserError([f"resume takes a run, or the name of an experiment, not {' '.join(words)}"])
        return guarded(f"python -m experiments.{load(words[0]).record['experiment']}", lambda: _resume(words[0]))
    experiment, rest = named("resume", words)
    if helped(experiment, rest):
        return 0
    if len(rest) > 1 or (rest and rest[0].startswith("-")):
        raise UserError([f"resume takes a run, or nothing for the latest interrupted one, not {' '.join(rest)}"])
    return acted(experiment, lambda: _resume(rest[0] if rest else experiment))


def _resume(which: str | Named) -> int:
    from core.record.run import in_study
    from core.runs.resume import interrupted
    from core.training.distributed import from_first, together

    def find() -> Run | None:
        if ranks_here().rank:
            return None
        return load(which) if isinstance(which, str) else interrupted(which.name)

    run = from_first(together(find))
    assert run is not None
    if in_study(run):
        raise UserError([f"{run.id} belongs to a study: the command that searched goes on with it"])
    return go_on(run)


def go_on(run: Run) -> int:
    """Finish a run, or several seeds of one parent; one that has finished is told of again."""
    from core.cli.outcome import told
    from core.runs.resume import resume
    from core.runs.seeds import resume_seeds

    return told(resume_seeds(run) if "seeds" in run.record else resume(run))
