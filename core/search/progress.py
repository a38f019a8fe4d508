"""Progress of a running study: a live table in a terminal, otherwise one plain line per trial."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from optuna.trial import FrozenTrial, TrialState

from core.common.terminal import is_terminal, tell
from core.common.text import duration
from core.search.objectives import summary
from core.search.options import Search
from core.search.space import label

if TYPE_CHECKING:
    from core.search.study import Study


def shown(options: Search) -> Lines:
    """The progress display for standard output."""
    return Table() if is_terminal() else Lines()


class Lines:
    """One plain line for each finished trial."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, line: str) -> None:
        tell(line)

    def show(self, study: Study) -> None:
        pass

    def ended(self, study: Study, trial: FrozenTrial) -> None:
        """Print how a trial ended; called once per trial."""
        self.say(line_of(study, trial))


class Table(Lines):
    """Finished trials are printed above a live table of the running trials and a summary of the study."""

    def __init__(self) -> None:
        from rich.live import Live

        self.live = Live(refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        self.live.console.print(line, highlight=False)

    def show(self, study: Study) -> None:
        from rich.table import Table as RichTable

        table = RichTable(title=standing(study), title_justify="left", expand=False)
        for heading in ("trial", "epoch", study.goals.names[0], "hyperparameters"):
            table.add_column(heading)
        for worker in study.pool.busy():
            if worker.task and (trial := study.running.get(worker.task.number)):
                values = study.now(trial).intermediate_values
                last = max(values, default=0)
                now = f"{values[last]:.4f}" if last else ""
                table.add_row(str(trial.number), f"{last}/{study.experiment.epochs}", now, _told(trial.params))
        self.live.update(table)


def standing(study: Study) -> str:
    """A summary of the study in one line: number of trials by state, best value, epochs saved, time left."""
    told = study.told()
    pruned = [t for t in told if t.state == TrialState.PRUNED]
    failed = sum(t.state == TrialState.FAIL for t in told)
    parts = [f"{study.study.study_name}: {len(told)} of {max(len(told), study.options.trials)} trials"]
    if len(study.goals.names) == 1 and (done := [t for t in told if t.state == TrialState.COMPLETE]):
        best = study.study.best_trial
        parts.append(f"best {summary(best.values, study.goals)} (trial {best.number}, {len(done)} finished)")
    if pruned:
        all_epochs = study.experiment.epochs * len(told)
        saved = sum(study.experiment.epochs - max(t.intermediate_values, default=0) for t in pruned)
        parts.append(f"{len(pruned)} pruned, {saved / all_epochs:.0%} of epochs saved")
    if failed:
        parts.append(f"{failed} failed")
    mine = [t for t in told if t.duration and t.datetime_complete and _since(t) < time.monotonic() - study.began]
    if mine and len(told) < study.options.trials and study.is_going():
        rate = (time.monotonic() - study.began) / len(mine)
        parts.append(f"{duration(rate * (study.options.trials - len(told)))} left")
    return ", ".join(parts)


def line_of(study: Study, trial: FrozenTrial) -> str:
    """The line that reports how a trial ended."""
    epochs = max(trial.intermediate_values, default=0)
    if trial.state == TrialState.COMPLETE:
        how = summary(trial.values, study.goals)
    elif trial.state == TrialState.PRUNED:
        how = f"pruned after epoch {epochs} of {study.experiment.epochs}"
    else:
        how = f"failed: {str(trial.user_attrs.get('error', '')).splitlines()[0][:200]}"
    return f"trial {trial.number}: {how}   {_told(trial.params) or 'the declaration'}"


def _told(params: dict[str, Any]) -> str:
    return " ".join(f"{name}={label(value)}" for name, value in sorted(params.items()))


def _since(trial: FrozenTrial) -> float:
    """Seconds since the trial ended."""
    from datetime import datetime

    return (datetime.now() - trial.datetime_complete).total_seconds() if trial.datetime_complete else 0.0
