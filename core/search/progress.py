"""Progress of a running study: a live table in a terminal, otherwise one plain line per trial."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from optuna.trial import FrozenTrial, TrialState

from core.common.terminal import console, is_terminal, tell
from core.common.text import duration
from core.search.objectives import summary
from core.search.repeats import best_of, is_repeat, name_of, verdict_of
from core.search.space import label
from core.search.thaw import is_paused

if TYPE_CHECKING:
    from core.search.study import StudyRunner


def display() -> Lines:
    """Returns a live table if standard output is a terminal, otherwise plain lines."""
    return Table() if is_terminal() else Lines()


class Lines:
    """One plain line for each finished trial."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def say(self, line: str) -> None:
        tell(line)

    def show(self, runner: StudyRunner) -> None:
        """Show the current state of the study; plain lines show none."""

    def ended(self, runner: StudyRunner, trial: FrozenTrial) -> None:
        """Print how a trial ended; called once per trial."""
        self.say(trial_line(runner, trial))


class Table(Lines):
    """Finished trials are printed above a live table of the running trials and a summary of the study."""

    def __init__(self) -> None:
        from rich.live import Live

        self.live = Live(console=console(), refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        self.live.console.print(line, highlight=False)

    def show(self, runner: StudyRunner) -> None:
        from rich.table import Table as RichTable

        table = RichTable(title=status_line(runner), title_justify="left", expand=False)
        for name in ("trial", runner.step, runner.goals.names[0], "hyperparameters"):
            table.add_column(name)
        for number in (number for worker in runner.pool.busy() for number in worker.tasks):
            if trial := runner.running.get(number):
                values = runner.now(trial).intermediate_values
                last = max(values, default=0)
                now = f"{values[last]:.4f}" if last else ""
                table.add_row(
                    name_of(trial).removeprefix("trial "), f"{last}/{runner.steps}", now, _params_text(trial.params)
                )
        self.live.update(table)


def status_line(runner: StudyRunner) -> str:
    """Summarize the study in one line: number of trials by state, best value, epochs saved, time left."""
    finished = runner.finished()
    pruned = [t for t in finished if t.state == TrialState.PRUNED]
    failed = sum(t.state == TrialState.FAIL for t in finished)
    parts = [f"{runner.study.study_name}: {len(finished)} of {max(len(finished), runner.options.trials)} trials"]
    if len(runner.goals.names) == 1 and (done := [t for t in finished if t.state == TrialState.COMPLETE]):
        best, raced = best_of(runner.study)[0], verdict_of(runner.study)
        value = summary([raced.mean] if raced else best.values, runner.goals)
        parts.append(f"best {value} (trial {best.number}, {len(done)} finished)")
        if raced:
            parts.append(f"{sum(map(is_repeat, runner.study.get_trials(deepcopy=False)))} further seeds")
    if pruned:
        saved = sum(runner.steps - max(t.intermediate_values, default=0) for t in pruned)
        parts.append(f"{len(pruned)} pruned, {saved / (runner.steps * len(finished)):.0%} of {runner.step}s saved")
    if paused := sum(map(is_paused, runner.study.get_trials(deepcopy=False))):
        parts.append(f"{paused} paused")
    if failed:
        parts.append(f"{failed} failed")
    timed = [t for t in finished if t.duration and t.datetime_complete and _since(t) < time.monotonic() - runner.began]
    if timed and len(finished) < runner.options.trials and runner.is_active():
        rate = (time.monotonic() - runner.began) / len(timed)
        parts.append(f"{duration(rate * (runner.options.trials - len(finished)))} left")
    return ", ".join(parts)


def trial_line(runner: StudyRunner, trial: FrozenTrial) -> str:
    """Describe in one line how a trial ended."""
    done = max(trial.intermediate_values, default=0)
    if trial.state == TrialState.COMPLETE:
        how = summary(trial.values, runner.goals)
    elif trial.state == TrialState.PRUNED:
        how = f"pruned after {runner.step} {done} of {runner.steps}"
    else:
        how = f"failed: {str(trial.user_attrs.get('error', '')).splitlines()[0][:200]}"
    return f"{name_of(trial)}: {how}   {_params_text(trial.params) or 'the declaration'}"


def _params_text(params: dict[str, Any]) -> str:
    return " ".join(f"{name}={label(value)}" for name, value in sorted(params.items()))


def _since(trial: FrozenTrial) -> float:
    """Seconds since the trial ended."""
    from datetime import datetime

    return (datetime.now() - trial.datetime_complete).total_seconds() if trial.datetime_complete else 0.0
