"""The objectives of a study: validation metrics, or costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from core.common.errors import UserError
from core.common.text import did_you_mean
from core.experiment import Experiment
from core.metrics.names import SPARSITY, direction, is_fraction, sign
from core.record.run import last
from core.runs.trained import Run
from core.search.options import COSTS, Search
from core.search.space import Space

DEFAULT = "val/accuracy"
LATENCY = "latency_ms"  # of one image in eager PyTorch on the CPU, in float32


@dataclass(frozen=True)
class Goals:
    """The objectives of a study. names: validation metrics, or costs.  epoch: which epoch counts, best or last.
    directions: of metrics that the declaration adds, 1 or -1.  folds: number of folds over which a trial is averaged;
    None: it is a single run."""

    names: tuple[str, ...]
    epoch: str
    directions: Mapping[str, int] = field(default_factory=dict)
    folds: int | None = None

    def mean(self, runs: Sequence[Run]) -> list[float]:
        """Returns the mean of each goal over runs. Raises ValueError if a value is not finite."""
        return [sum(values) / len(runs) for values in zip(*map(self.score, runs), strict=True)]

    def score(self, run: Run) -> list[float]:
        """Returns the measured value of each goal. Raises ValueError if a value is not finite."""
        history = run.history
        values = [self._value(name, run, history) for name in self.names]
        for name, value in zip(self.names, values, strict=True):
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}")
        return values

    def _value(self, name: str, run: Run, history: dict[str, dict[int, float]]) -> float:
        if name == "parameters":
            return float(run.record["facts"]["parameters"])
        if name == "seconds":
            return run.seconds
        if name == LATENCY:
            return last(history)[name]
        sparsity = history.get(SPARSITY, {})
        most = max(sparsity.values(), default=0.0)
        # of a network that is pruned during training, only the final one counts
        curve = [value for epoch, value in sorted(history[name].items()) if sparsity.get(epoch, 0.0) == most]
        finite = [value for value in curve if not math.isnan(value)]
        if self.epoch == "last" or not finite:
            return curve[-1]
        return max(finite) if self.larger_is_better(name) else min(finite)

    def larger_is_better(self, name: str) -> bool:
        """Whether a goal is maximized."""
        return (self.directions.get(name) or sign(name)) > 0


def goals_of(options: Search, experiment: Experiment, space: Space) -> Goals:
    """Returns the goals in `options`; by default the declared `monitor`, or the accuracy if the space varies the loss.

    Raises UserError for unknown goals, and for a loss whose values are not comparable between trials.
    """
    varies_loss = any(name.partition(".")[0] == "loss" for name in space)
    names = options.goal or (DEFAULT if varies_loss and experiment.monitor == "val/loss" else experiment.monitor,)
    known = (*experiment.metric_names, *COSTS)
    wrong = [f"--goal {name}: unknown goal; choose one of {', '.join(known)}{did_you_mean(name, known)}"
             for name in names if name not in known]  # fmt: skip
    if len(set(names)) < len(names):
        wrong.append(f"--goal {','.join(names)}: goals must be different")
    if "val/loss" in names and varies_loss:
        wrong.append(
            "--goal val/loss: SPACE varies the loss, so its values are not comparable; choose val/accuracy or val/nll"
        )
    directions = experiment.directions
    for name in names:
        if name in known and not directions.get(name) and direction(name) is None:
            wrong.append(f"--goal {name}: it is not known whether larger or smaller values are better")
    if options.folds and experiment.fold:
        wrong.append("--folds: the declaration is of a single fold; add --fold none")
    if options.folds and options.confirm:
        wrong.append("--confirm: not together with --folds; train the best with --from STUDY --folds 5x4 instead")
    if options.race and len(names) > 1:
        wrong.append(f"--race: one goal only, not {','.join(names)}")
    if options.race and options.confirm:
        wrong.append("--confirm: not together with --race, which trains the best trials with several seeds already")
    if options.pruner == "thaw":
        wrong += [f"--pruner thaw: {why}" for why in _not_with_thaw(options, names)]
    if wrong:
        raise UserError(wrong)
    return Goals(tuple(names), options.epoch, directions, options.folds)


def _not_with_thaw(options: Search, names: Sequence[str]) -> Iterator[str]:
    """Yields why trials cannot pause."""
    if len(names) > 1 or names[0] in COSTS:
        yield f"it ranks trials by one validation metric, not by {','.join(names)}"
    if options.folds:
        yield "not together with --folds, whose trials are pruned between folds"
    if options.race:
        yield "not together with --race, which compares trials that were trained to the end"
    if options.storage:
        yield "not together with --storage, because paused trials are checkpoints on this machine"


def summary(values: Sequence[float], goals: Goals) -> str:
    """Format scores in one line, for messages: accuracy 98.61%, 65,834 parameters."""
    return ", ".join(amount(name, value) for name, value in zip(goals.names, values, strict=True))


def amount(name: str, value: float) -> str:
    """Format one score with its name, for messages: accuracy 98.61%."""
    if name == "parameters":
        return f"{number(name, value)} parameters"
    return number(name, value) if name in ("seconds", LATENCY) else f"{name.rsplit('/', 1)[-1]} {number(name, value)}"


def number(name: str, value: float) -> str:
    """Format the value of a score without its name, for messages: 98.61%."""
    if name == "parameters":
        return f"{value:z,.0f}"
    if name == "seconds":
        return f"{value:z,.1f} s"
    if name == LATENCY:
        return f"{value:z.2f} ms"
    return f"{value:z.2%}" if is_fraction(name.rpartition("/")[2]) else f"{value:z.4f}"
