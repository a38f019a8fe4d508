"""Several seeds of one declaration: runs under a parent run that holds their mean, deviation and interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from core.build import smoked
from core.experiment import Experiment
from core.launch import Launch
from core.part import Mistakes
from core.record import Run
from core.run import mirrored, prepare, train
from core.terminal import tell
from core.tracking import Mirror
from core.writing import Heading, new_run, open_journal, write_summary


@dataclass(frozen=True)
class Seeds:
    """parent: the run that holds the summary.  runs: those that finished.  failed: seed -> error of the others."""

    parent: Run
    runs: tuple[Run, ...]
    failed: dict[int, str]


def train_seeds(
    experiment: Experiment,
    seeds: int,
    launch: Launch | None = None,
    heading: Heading | str = "notebook",
    mirror: Mirror | None = None,
) -> Seeds:
    """Train `seeds` runs, their seeds counting up from the declaration's. A failed one is kept in sight and the rest
    go on. Raises as `train` does for mistakes and signals."""
    launch = launch or Launch()
    heading = Heading(heading) if isinstance(heading, str) else heading
    with mirrored(mirror) as following:
        experiment.but({"seed": experiment.seed + seeds - 1})
        prepare(
            smoked(experiment) if launch.smoke else experiment, launch
        )  # what is refused is refused before there is a parent
        parent, journal = new_run(heading.experiment)
        runs: list[Run] = []
        failed: dict[int, str] = {}
        status = "FAILED"
        try:
            tags = {"seeds": str(seeds), "smoke": str(launch.smoke).lower()}
            open_journal(journal, parent, heading, f"{heading.title} {seeds} seeds", experiment.flat(), tags)
            if launch.mlflow:
                following.follow(parent.folder)
            for seed in range(experiment.seed, experiment.seed + seeds):
                tell(f"seed {seed} ({seed - experiment.seed + 1} of {seeds})")
                try:
                    below = replace(heading, parent=parent.id)
                    runs.append(train(experiment.but({"seed": seed}), launch, below, following))
                except Mistakes:
                    raise
                except Exception as error:
                    failed[seed] = f"{type(error).__name__}: {error}"
                    tell(f"seed {seed} failed: {failed[seed]}")
            status = "FAILED" if failed else "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            for seed, error_text in failed.items():
                journal.write("tags", values={f"failed_seed_{seed}": error_text[:1000]})
            journal.metrics(len(runs), summarise(runs))
            write_summary(parent, status)
            journal.close(status)
    return Seeds(parent, tuple(runs), failed)


def summarise(runs: list[Run]) -> dict[str, float]:
    """For each final val/ and test/ metric: its mean, under its own name, and name_std and name_ci95."""
    result: dict[str, float] = {}
    finals = [run.metrics for run in runs]
    for name in sorted({name for metrics in finals for name in metrics if name.startswith(("val/", "test/"))}):
        mean, std, half = mean_and_interval([metrics[name] for metrics in finals if name in metrics])
        result |= {name: mean}
        if len(finals) > 1:
            result |= {f"{name}_std": std, f"{name}_ci95": half}
    return result


def mean_and_interval(values: list[float]) -> tuple[float, float, float]:
    """(mean, standard deviation, half width of the 95 % interval by Student's t); the last two NaN for one value."""
    n = len(values)
    if n < 2:
        return values[0], math.nan, math.nan
    from scipy.stats import t

    std = float(np.std(values, ddof=1))
    return float(np.mean(values)), std, float(t.ppf(0.975, n - 1) * std / math.sqrt(n))
