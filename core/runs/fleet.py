"""Several runs that are trained together, seeds of one declaration or trials of a study: each is recorded as if it were
alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace
from functools import partial

from core.common.errors import Interrupted, NonFinite, OutOfMemory, Unfinished, UserError
from core.common.memory import is_out_of_memory, out_of_memory
from core.common.signals import Stop
from core.common.terminal import tell
from core.runs.failures import explained
from core.runs.progress import Notes, Silent, summary_of_seeds
from core.runs.trained import Run
from core.runs.trainer import Trainer
from core.training.assemble import Assembly
from core.training.fleet import Round, fit_together, sharing
from core.training.loop import Event
from core.training.runtime import Runtime
from core.training.step import is_over

Opening = Callable[[Runtime], AbstractContextManager[Trainer]]
# what is done with an open run: (number, trainer) -> a generator that iterates its events and yields after each
Course = Callable[[int, Trainer], Generator[None]]
OVER = object()


def to_the_end(number: int, trainer: Trainer) -> Generator[None]:
    """Train to the end; once all runs have, evaluate on the test split, and write plots and report."""
    with closing(trainer.events()) as events:
        for _ in events:
            yield
    yield
    trainer.finish()


def train_together(
    openings: Mapping[int, Opening], runtime: Runtime, course: Course = to_the_end
) -> dict[int, Run | Exception]:
    """Train runs together, each from its own state to its own end. Returns, by number, the finished run or the error
    with which it failed.

    openings: opens or reopens the run of a number.  course: a run is closed when it ends, which may be before the end
    of training. Raises Interrupted after every run was saved at the end of the same step, and whatever ends all runs:
    UserError, Unfinished, and errors that are not of one run.
    """
    seen = replace(runtime, stop=Stop())  # of the members: a signal does not arrive in the middle of a round
    members: dict[int, _Member] = {}
    try:
        for number, opening in openings.items():
            members[number] = _Member(opening(seen), partial(course, number), speaks=not members)
            tell(f"seed {number}: {members[number].trainer.run.id}")
        with runtime.stop.at_step_end():
            _train(members, runtime.stop, seen.stop)
        for member in members.values():
            member.proceed()  # evaluates, and closes the run
            _raise_stopped([member])
    except BaseException as error:
        better = _explained(error)
        for member in members.values():
            member.end(better)
        if better is error:
            raise
        raise better from error
    return {number: member.failed or member.trainer.run for number, member in members.items()}


def _explained(error: BaseException) -> BaseException:
    """The error to show to the user in place of one that ends all runs."""
    if is_out_of_memory(error) and not isinstance(error, OutOfMemory):
        return out_of_memory(
            error, "train fewer runs at once, or one after the other (without --together, or with a smaller --at_once)"
        )
    return explained(error, "", 0)


def _train(members: Mapping[int, _Member], signals: Stop, seen: Stop) -> None:
    """Hand each member its events until all have trained. seen: the signal as the members see it."""
    first = next(iter(members.values())).trainer.parts
    tell(first.splits.summary())
    parts: dict[int, Assembly] = {}
    for number, member in members.items():
        parts[number] = sharing(member.trainer.parts, first)
        member.trainer = replace(member.trainer, parts=parts[number])
        member.save_if_over()
    ended: set[int] = set()
    with closing(fit_together(parts, ended)) as rounds:
        for events in rounds:
            seen.number = signals.number
            _show(events, first.setup.epochs)
            for number, event in events.items():
                members[number].take(event)
            _raise_stopped(members.values())
            ended |= {number for number, member in members.items() if member.over}


def _raise_stopped(members: Iterable[_Member]) -> None:
    if stopped := [member.stopped for member in members if member.stopped]:
        raise stopped[0]


def _show(events: Round, epochs: int) -> None:
    ends = [event for event in events.values() if isinstance(event, Event) and event.validation]
    if ends:
        tell(summary_of_seeds(ends[0].epoch, epochs, [event.metrics for event in ends]))


class _Member:
    """One of the runs: a generator that holds it open between its events, and its outcome.

    failed: the error with which it failed.  stopped: the signal that stopped it, after it was saved.  over: whether it
    is closed.
    """

    def __init__(
        self, opening: AbstractContextManager[Trainer], course: Callable[[Trainer], Generator[None]], speaks: bool
    ):
        self.over = False
        self.failed: Exception | None = None
        self.stopped: Interrupted | None = None
        self._box: deque[Event | NonFinite] = deque()
        self._display = Notes if speaks else Silent
        self._course = self._recorded(opening, course)
        next(self._course)

    def _recorded(
        self, opening: AbstractContextManager[Trainer], course: Callable[[Trainer], Generator[None]]
    ) -> Generator[None]:
        """The whole run, which yields before training, and then where its course does."""
        with opening as trainer:
            self.trainer = replace(trainer, fitted=self._events, display=lambda epochs, *_: self._display(epochs))
            yield
            yield from course(self.trainer)

    def _events(self, parts: Assembly) -> Iterator[Event]:
        while self._box:
            event = self._box.popleft()
            if isinstance(event, NonFinite):
                raise event
            yield event

    def take(self, event: Event | NonFinite) -> None:
        """Record an event; after the last one, also save the final state."""
        self._box.append(event)
        self.proceed()
        if isinstance(event, Event) and event.validation:
            self.save_if_over()

    def save_if_over(self) -> None:
        """Save the final state if training is over."""
        if is_over(self.trainer.parts.setup, self.trainer.parts.state.history):
            self.proceed()

    def proceed(self) -> None:
        """Continue the run until it yields next. Raises what ends all runs."""
        if self.over or self.stopped:
            return
        try:
            self.over = next(self._course, OVER) is OVER
        except (UserError, Unfinished):
            raise
        except Interrupted as signal:
            self.stopped = signal
        except Exception as error:
            self.failed, self.over = error, True

    def end(self, error: BaseException) -> None:
        """End a run that is still open, with the error that ends all."""
        if isinstance(error, UserError):
            error = Unfinished(f"stopped with the other seeds: {error}", self.trainer.run.id)
        with suppress(BaseException):
            self._course.throw(error)
