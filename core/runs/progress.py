"""Progress of a run: a live bar in a terminal or notebook, otherwise one plain line per epoch."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from core.common.terminal import console, is_notebook, is_terminal, tell
from core.common.text import duration

if TYPE_CHECKING:
    from core.training.loop import Event

SLOW_SECONDS = 60  # the expected duration is printed from this length on
WINDOW_SECONDS, WINDOW_STEPS = 10.0, 4  # minimum span over which the pace is measured
STEADY = 0.2  # largest relative difference between two measured paces that counts as steady


class Progress(Protocol):
    """A consumer of events; a context manager, so that the terminal is restored at exit."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def show(self, event: Event) -> None: ...
    def say(self, line: str) -> None: ...


def progress(epochs: int, steps: int, batch_size: int, first_step: int = 0, declared: Sequence[str] = ()) -> Progress:
    """A Bar if it can be shown, otherwise Lines. steps: per epoch.  first_step: where a resumed run continues.
    declared: names of the metrics that the declaration adds."""
    if is_terminal() or is_notebook():
        return Bar(epochs, steps, batch_size, first_step, declared)
    return Lines(epochs, declared)


class Lines:
    """One plain line per epoch."""

    def __init__(self, epochs: int, declared: Sequence[str] = ()):
        self.epochs, self.declared = epochs, declared

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def show(self, event: Event) -> None:
        if event.validation:
            self.say(f"epoch {event.epoch + 1}/{self.epochs}  {summary(event.metrics, self.declared)}")

    def say(self, line: str) -> None:
        tell(line)


class Notes(Lines):
    """Shows notes but no epochs: for the first of several seeds that are trained together, of whose epochs one line is
    shown."""

    def show(self, event: Event) -> None:
        pass


class Silent(Notes):
    """Shows nothing: for the other seeds."""

    def say(self, line: str) -> None:
        pass


class Bar:
    """A live bar: epoch, step, loss, accuracy, images/s, time left."""

    def __init__(self, epochs: int, steps: int, batch_size: int, first_step: int, declared: Sequence[str] = ()):
        from rich import progress as rich_progress

        self.epochs, self.steps, self.batch_size, self.declared = epochs, steps, batch_size, declared
        self.loss = self.accuracy = ""
        self.first, self.began = first_step, time.perf_counter()
        self.bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.fields[numbers]}"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            console=console(),
            refresh_per_second=4,
        )
        self.task = self.bar.add_task(f"epoch 1/{epochs}", total=epochs * steps, completed=first_step, numbers="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.refresh()  # in a notebook, `stop` alone leaves the last refresh but one
        self.bar.stop()

    def show(self, event: Event) -> None:
        if event.validation:
            self.accuracy = f" val {event.metrics['val/accuracy']:.2%}"
            line = f"epoch {event.epoch + 1}/{self.epochs}  {summary(event.metrics, self.declared)}"
            self.bar.console.print(line, highlight=False)
        elif not event.metrics:
            return
        self.loss = f" loss {event.metrics['step/loss']:.4f}" if "step/loss" in event.metrics else self.loss
        rate = (event.step - self.first) * self.batch_size / (time.perf_counter() - self.began)
        numbers = (
            f"step {event.step % self.steps or self.steps}/{self.steps}{self.loss}{self.accuracy} {rate:,.0f} img/s"
        )
        epoch = min(event.epoch + 1, self.epochs)
        self.bar.update(self.task, completed=event.step, description=f"epoch {epoch}/{self.epochs}", numbers=numbers)

    def say(self, line: str) -> None:
        self.bar.console.print(line, highlight=False)


def summary(metrics: dict[str, float], declared: Sequence[str] = ()) -> str:
    """The metrics of an epoch in one line. declared: names of further ones."""
    values = {name: metrics.get(f"val/{name}") for name in declared}
    more = "".join(f" {name} {'undefined' if value is None else f'{value:.4f}'}" for name, value in values.items())
    average = f" map {metrics['val/map']:.2%}" if "val/map" in metrics else ""
    return (
        f"train loss {metrics['train/loss']:.4f} accuracy {metrics['train/accuracy']:.2%}  "
        f"val loss {metrics['val/loss']:.4f} accuracy {metrics['val/accuracy']:.2%}{average}{more}  "
        f"lr {metrics['lr']:.2g}  {metrics['images_per_second']:,.0f} images/s"
    )


def summary_of_seeds(epoch: int, epochs: int, each: Sequence[dict[str, float]]) -> str:
    """The metrics of an epoch of several seeds in one line: means, and the range of the accuracy on val."""

    def mean(name: str) -> float:
        return sum(metrics[name] for metrics in each) / len(each)

    accuracies = [metrics["val/accuracy"] for metrics in each]
    seeds = f"{len(each)} seeds, means" if len(each) > 1 else "1 seed"
    return (
        f"epoch {epoch + 1}/{epochs}  {seeds}: train loss {mean('train/loss'):.4f} accuracy "
        f"{mean('train/accuracy'):.2%}  val loss {mean('val/loss'):.4f} accuracy {mean('val/accuracy'):.2%} "
        f"({min(accuracies):.2%} to {max(accuracies):.2%})  {sum(m['images_per_second'] for m in each):,.0f} images/s"
    )


class Forecast:
    """Estimates once, when the pace is steady, how long a slow run will take.

    The first half of the training time so far is discarded: compilation, tuning of kernels, caches and the start of
    other processes make the first steps slow. The pace is steady when two halves of the remaining steps agree.
    """

    def __init__(
        self, steps: int, epochs: int, first_step: int, overhead: float, clock: Callable[[], float] = time.perf_counter
    ):
        """steps: per epoch.  first_step: where a resumed run continues.  overhead: time of validation as a fraction of
        that of training, assumed until a validation has been measured.  clock: in seconds."""
        self.steps, self.epochs, self.first, self.clock = steps, epochs, first_step, clock
        self.validation: float | None = None  # seconds of the last validation
        self.overhead = overhead
        self.ends: list[float] = []  # time in training at the end of each step, without validation
        self.began = self.last = clock()
        self.decided = False

    def after(self, event: Event) -> str | None:
        """Process one event. Returns the estimate once, if training takes at least SLOW_SECONDS; otherwise None."""
        if self.decided:
            return None
        now = self.clock()
        passed, self.last = now - self.last, now
        if event.validation:
            self.validation = passed
            return None
        self.ends.append(passed + (self.ends[-1] if self.ends else 0.0))
        if (pace := self._pace()) is None:
            return None
        self.decided = True
        steps, validations = self.steps * self.epochs - event.step, self.epochs - event.epoch
        each = pace * self.steps * self.overhead if self.validation is None else self.validation
        seconds = now - self.began + steps * pace + validations * each
        if seconds < SLOW_SECONDS:
            return None
        return (
            f"{self.steps * self.epochs - self.first:,} steps at {pace:.2g} s per step: training will take about "
            f"{duration(seconds)} on this device, less with early stopping. Use --epochs N or --limit N to shorten it"
        )

    def _pace(self) -> float | None:
        """Seconds per step; None while the pace is not steady."""
        ends, last = self.ends, len(self.ends) - 1
        begin = bisect_left(ends, ends[-1] / 2)
        if last - begin < WINDOW_STEPS or ends[last] - ends[begin] < WINDOW_SECONDS:
            return None
        middle = (begin + last) // 2
        earlier = (ends[middle] - ends[begin]) / (middle - begin)
        later = (ends[last] - ends[middle]) / (last - middle)
        steady = abs(later - earlier) <= STEADY * min(earlier, later)
        return (ends[last] - ends[begin]) / (last - begin) if steady else None
