"""What a user sees while a run goes: a bar in a terminal, else one plain line per epoch."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from core.terminal import is_terminal, tell

if TYPE_CHECKING:
    from core.loop import Event

SLOW_SECONDS = 300  # a run longer than this is announced
MEASURED_STEPS = 3


class Progress(Protocol):
    """A consumer of events; a context manager, so that the terminal is left in order."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def show(self, event: Event) -> None: ...
    def say(self, line: str) -> None: ...


def progress(epochs: int, steps: int, batch_size: int, first_step: int = 0) -> Progress:
    """The fitting one for standard output. steps: per epoch.  first_step: where a resumed run goes on."""
    return Bar(epochs, steps, batch_size, first_step) if is_terminal() else Lines(epochs)


class Lines:
    """One plain line per epoch."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def show(self, event: Event) -> None:
        if event.validation:
            self.say(f"epoch {event.epoch + 1}/{self.epochs}  {summary(event.metrics)}")

    def say(self, line: str) -> None:
        tell(line)


class Bar:
    """A live bar: epoch, step, loss, accuracy, images/s, time left."""

    def __init__(self, epochs: int, steps: int, batch_size: int, first_step: int):
        from rich import progress as rich_progress

        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.loss = self.accuracy = ""
        self.first, self.began = first_step, time.perf_counter()
        self.bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.fields[numbers]}"),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            refresh_per_second=4,
        )
        self.task = self.bar.add_task(f"epoch 1/{epochs}", total=epochs * steps, completed=first_step, numbers="")

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def show(self, event: Event) -> None:
        if event.validation:
            self.accuracy = f" val {event.metrics['val/accuracy']:.2%}"
            self.bar.console.print(f"epoch {event.epoch + 1}/{self.epochs}  {summary(event.metrics)}", highlight=False)
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


def summary(metrics: dict[str, float]) -> str:
    """The numbers of an epoch in one line."""
    average = f" map {metrics['val/map']:.2%}" if "val/map" in metrics else ""
    return (
        f"train loss {metrics['train/loss']:.4f} accuracy {metrics['train/accuracy']:.2%}  "
        f"val loss {metrics['val/loss']:.4f} accuracy {metrics['val/accuracy']:.2%}{average}  "
        f"lr {metrics['lr']:.2g}  {metrics['images_per_second']:,.0f} images/s"
    )


class Forecast:
    """Says once, after a few steps, how long a slow run will take."""

    def __init__(self, total_steps: int, overhead: float):
        """overhead: time of validation as a share of that of training."""
        self.total, self.overhead = total_steps, overhead
        self.seen, self.first = 0, 0.0

    def after_step(self) -> str | None:
        """To be called after each step. The announcement, once, where the whole takes longer than SLOW_SECONDS."""
        self.seen += 1
        if self.seen == 1:  # the first step also allocates and tunes: it is not typical
            self.first = time.perf_counter()
        if self.seen != 1 + MEASURED_STEPS or self.total <= self.seen:
            return None
        per_step = (time.perf_counter() - self.first) / MEASURED_STEPS
        seconds = per_step * self.total * (1 + self.overhead)
        if seconds < SLOW_SECONDS:
            return None
        return (
            f"measured {per_step:.2f} s a step: all {self.total:,} steps will take about {duration(seconds)} on this "
            "device (less if stopped early). --epochs N and --limit N make it shorter"
        )


def duration(seconds: float) -> str:
    """90 -> "1 min 30 s", 7260 -> "2 h 1 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
