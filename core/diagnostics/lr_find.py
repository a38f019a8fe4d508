"""`lr_find`: learning-rate range test of a declaration. It records no run and keeps no weights."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.common import paths
from core.common.errors import Interrupted, NonFinite, UserError
from core.common.terminal import tell
from core.diagnostics.lr_curve import Curve, RangeTest, curve, has_diverged
from core.experiment import Experiment
from core.launch import Launch
from core.metrics.names import History
from core.schedules import Clock
from core.training import distributed
from core.training.assemble import prepare
from core.training.loop import fit
from core.training.runtime import Runtime, open_runtime
from core.training.smoke import declared

if TYPE_CHECKING:
    from core.training.assemble import Assembly


@dataclass(frozen=True)
class Found:
    """Result of lr_find.

    folder: contains plot and table; None in processes other than rank 0.  field: name of the learning-rate field.
    """

    curve: Curve
    folder: Path | None
    field: str = "optimizer.lr"


@dataclass(frozen=True)
class _Growing:
    """Schedule of the range test, which replaces the declared one, including warmup. Parameter groups of the optimizer
    keep their proportions."""

    test: RangeTest
    declared: float

    def __call__(self, clock: Clock, history: History = ()) -> float:
        return self.test.rate(min(clock.step, self.test.steps - 1)) / self.declared


def lr_find(
    experiment: Experiment, launch: Launch | None = None, test: RangeTest | None = None, name: str = "notebook"
) -> Found:
    """Train from scratch with an increasing learning rate, and write plot and table to mlruns/lr_find.

    The steps are those of `fit`, including augmentation. Raises as `train` does, except that a non-finite loss ends the
    test.
    """
    launch, test = launch or Launch(), test or RangeTest()
    with open_runtime(launch, None) as runtime:
        chosen = declared(experiment, launch, runtime.ranks)
        parts = prepare(chosen, launch, runtime.ranks)
        field = f"optimizer.{chosen.optimizer.rate_name()}"
        # if parameter groups scale the learning rate, none of them may have the declared one
        rate = chosen.flat().get(field, parts.state.optimizer.param_groups[0]["initial_lr"])
        with distributed.peers():
            seen = _tried(parts, test, rate, runtime)
    return Found(seen, None if runtime.ranks.rank else _written(seen, name), field)


def _tried(parts: Assembly, test: RangeTest, declared_rate: float, runtime: Runtime) -> Curve:
    """Train until all learning rates are tried or the loss diverges, which happens at the same step in every
    process."""
    epochs = -(-test.steps // parts.context.steps_per_epoch)
    growing = _Growing(test, declared_rate)
    disabled = {"stopping": None, "max_minutes": None, "average_from": None}
    setup = replace(parts.setup, schedule=growing, epochs=epochs, log_every=1, **disabled)  # type: ignore[arg-type]
    rates: list[float] = []
    losses: list[float] = []
    agreed = distributed.Agreement()
    refused = None
    with runtime.stop.at_step_end():
        try:
            for event in fit(setup, parts.state, parts.train, parts.val):
                if number := agreed(runtime.stop.number):
                    raise Interrupted(number, "stopped")
                if event.validation is None:
                    rates.append(test.rate(event.step - 1))
                    losses.append(event.metrics["step/loss"])
                if event.step >= test.steps or has_diverged(losses, test.smoothing):
                    break
        except NonFinite:
            refused = test.rate(len(rates))
        agreed.settle()
    return curve(rates, losses, test.smoothing, refused)


def _written(seen: Curve, name: str) -> Path:
    """Write lr_find.csv and, if any step succeeded, lr_find.png. Raises UserError if the folder cannot be written."""
    folder = paths.home() / "mlruns" / "lr_find" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    lines = ["step,lr,loss,smoothed"]
    lines += [
        f"{step},{rate:.6g},{loss:.6g},{smoothed:.6g}"
        for step, (rate, loss, smoothed) in enumerate(zip(seen.rates, seen.losses, seen.smoothed, strict=True), 1)
    ]
    try:
        folder.mkdir(parents=True)
        (folder / "lr_find.csv").write_text("\n".join(lines) + "\n")
        if seen.rates:
            _plot(seen, folder / "lr_find.png")
    except OSError as error:
        raise UserError([f"{folder}: {error.strerror}; set LABBOOK_HOME to another folder for mlruns/"]) from None
    return folder


def _plot(seen: Curve, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(seen.rates, seen.losses, color="silver", linewidth=1, label="loss of the batch")
    axes.plot(seen.rates, seen.smoothed, label="smoothed")
    for rate, label in ((seen.steepest, "steepest"), (seen.diverging, "diverges")):
        if rate:
            axes.axvline(rate, color="gray", linestyle=":" if rate == seen.steepest else "--", linewidth=1)
            axes.annotate(f"{label}: {rate:.2g}", (rate, 1), xycoords=("data", "axes fraction"), fontsize=8)
    axes.set_ylim(top=1.1 * max(seen.smoothed))
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path)


def advice(seen: Curve, field: str = "optimizer.lr") -> list[str]:
    """Suggested learning rates and their rules, as lines of text. field: name of the learning-rate field."""
    steps = f"{len(seen.rates)} steps"
    lines = []
    if seen.steepest:
        lines += [f"suggestion: --{field} {seen.steepest:.2g} (steepest decrease of the smoothed loss in {steps})"]
    else:
        lines += [f"no suggestion: the loss did not decrease in {steps}; adjust --min_lr, --max_lr or --steps"]
    if seen.diverging:
        rule = "a tenth of the learning rate at which the loss diverges"
        lines += [f"alternative: --{field} {seen.diverging / 10:.2g} ({rule}, {seen.diverging:.2g})"]
    elif seen.rates:
        lines += [f"the loss did not diverge up to a learning rate of {seen.rates[-1]:.2g}; consider a higher --max_lr"]
    return lines


def report(found: Found) -> None:
    """Print the suggestions and the folder of the plot."""
    for line in advice(found.curve, found.field):
        tell(line)
    if found.folder:
        tell(f"plot and table saved to {found.folder}")
