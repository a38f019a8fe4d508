"""Samplers and pruners of Optuna by name, and suggestions from a search space."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import optuna
from optuna import pruners, samplers

from core.search.space import Choice, Dimension, Float, Space, dimensions

GRID_POINTS = 5  # number of values for a range without a step


def sampler(name: str, seed: int | None) -> samplers.BaseSampler:
    """Returns a sampler without internal state, so that a new one with another seed can be created for each trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        makers: dict[str, Callable[[], samplers.BaseSampler]] = {
            "tpe": lambda: samplers.TPESampler(seed=seed, multivariate=True, group=True),
            "random": lambda: samplers.RandomSampler(seed=seed),
            "grid": lambda: samplers.RandomSampler(seed=seed),  # its points are enqueued when the study is created
            "qmc": lambda: samplers.QMCSampler(
                seed=seed, warn_asynchronous_seeding=False, warn_independent_sampling=False
            ),
            "gp": lambda: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
            "cmaes": lambda: samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
        }
        return makers[name]()


def pruner(name: str, epochs: int, trials: int) -> pruners.BasePruner:
    """Returns a pruner that compares trials at the same epoch.

    The warm-up was tuned on learning curves of digits (seeds that tests/benchmarks/pruning.py does not use): with a
    warm-up of an eighth of the epochs and five trials, the median pruner stops trials that would have been the best;
    with a quarter of the epochs and a sixth of the trials, it does not."""
    early = max(1, epochs // 8)
    patience = {"n_startup_trials": min(10, max(5, trials // 6)), "n_warmup_steps": max(1, epochs // 4)}
    median = pruners.MedianPruner(**patience)
    return {
        "median": lambda: median,
        "percentile": lambda: pruners.PercentilePruner(25.0, **patience),
        "patient": lambda: pruners.PatientPruner(median, patience=max(1, epochs // 10)),
        "hyperband": lambda: pruners.HyperbandPruner(min_resource=early, max_resource=epochs, reduction_factor=3),
        "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=early, reduction_factor=3),
        "thaw": pruners.NopPruner,  # core/search/thaw.py pauses trials
        "none": pruners.NopPruner,
    }[name]()


def suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    """Returns the value that a trial suggests for a dimension; for a Choice, the label of the option."""
    if isinstance(dimension, Choice):
        return trial.suggest_categorical(name, list(dimension.options))
    if isinstance(dimension, Float):
        return trial.suggest_float(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)
    return trial.suggest_int(name, dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def limits(name: str, space: Space) -> str:
    """Returns a message about the parts of a space that a sampler does not support; empty if it supports all."""
    kinds = dimensions(space).values()
    choices = any(isinstance(dimension, Choice) for dimension in kinds)
    nested = any(dimension.within for dimension in kinds if isinstance(dimension, Choice))
    if choices and name in ("cmaes", "qmc"):
        return f"{name} supports numbers only: choices and their sub-spaces are sampled at random"
    return (
        "gp supports only dimensions that all trials share: sub-spaces of a choice are sampled at random"
        if nested and name == "gp"
        else ""
    )


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Yield every combination as name -> number or label; the last name varies fastest."""

    def below(inner: Space, prefix: str, suffix: str) -> Iterator[dict[str, Any]]:
        columns = [list(points(f"{prefix}{field}", suffix, dimension)) for field, dimension in inner.items()]
        for row in itertools.product(*columns):
            yield {name: value for part in row for name, value in part.items()}

    def points(field: str, suffix: str, dimension: Dimension) -> Iterator[dict[str, Any]]:
        name = f"{field}{suffix}"
        if not isinstance(dimension, Choice):
            yield from ({name: value} for value in _points(dimension))
            return
        for chosen in dimension.options:
            deeper = [below(s, f"{field}.", f"{suffix} ({key})") for key, s in dimension.below(chosen)]
            for row in itertools.product(*map(list, deeper)):
                yield {name: chosen} | {n: value for part in row for n, value in part.items()}

    return below(space, "", "")


def _points(dimension: Dimension) -> list[float] | list[int]:
    assert not isinstance(dimension, Choice)
    low, high = dimension.low, dimension.high
    whole = not isinstance(dimension, Float)
    if dimension.step is not None and not dimension.log and (not whole or dimension.step != 1):
        values = np.arange(low, high + 1e-9 * (high - low), dimension.step)
    else:
        values = (np.geomspace if dimension.log else np.linspace)(low, high, GRID_POINTS)
    if whole:
        return sorted({round(value) for value in values.tolist()})
    return [min(max(value, low), high) for value in values.tolist()]
