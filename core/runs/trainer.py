"""A run at work: the loop iterated; journal, best weights, checkpoints, progress and signals its consumers."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import torch

from core.common.errors import Interrupted, Unfinished
from core.common.terminal import tell
from core.diagnostics import anomaly
from core.diagnostics.observers import watching
from core.experiment import Experiment
from core.launch import Launch
from core.loading.images import Splits
from core.metrics.names import best_epoch
from core.models.weights import save_weights
from core.record.journal import Journal, keep_text
from core.record.run import WEIGHTS
from core.runs.failures import explained
from core.runs.progress import Forecast, progress
from core.runs.results import close, curves, judged, peak_memory_mb, test
from core.runs.trained import Run
from core.training import distributed
from core.training.assemble import Assembly, belongs, studied
from core.training.checkpoint import CHECKPOINTS, Saver, keep_last
from core.training.feature_cache import fed
from core.training.loop import Event, fit
from core.training.runtime import Stage
from core.training.state import State

NO_REPORT = "no report: its page is of one class for each image, and these have several labels; see per_class.csv"
REPORT_SECONDS, REPORT_SHARE = 20.0, 0.05  # what a report may take, of the time in training; whichever is more


@dataclass(frozen=True)
class Work:
    """A run that has begun and not ended. journal: the first process's alone; the others do the same steps, and put
    nothing on record."""

    run: Run
    journal: Journal | None
    experiment: Experiment
    launch: Launch
    splits: Splits
    parts: Assembly
    stage: Stage

    def to_the_end(self) -> None:
        """From an open journal to the last figure."""
        with closing(self.events()) as events:
            for _ in events:
                pass
        if self.journal is None:
            judged(self.experiment, self.splits, self.parts)
            return
        test(self.journal, self.experiment, self.splits, self.parts)
        curves(self.journal, self.experiment, self.parts)
        self._report(self.journal)
        keep_last(self.run.folder / CHECKPOINTS)

    def events(self) -> Generator[Event]:
        """Train from where the state stands; each event comes when it is on record.

        Whoever iterates may leave early, closing the generator: what was recorded stands. Raises Interrupted at the
        end of the step during which a signal came, saved; NonFinite.
        """
        return self._assisting() if self.journal is None else self._recording(self.journal)

    @contextmanager
    def on_record(self) -> Iterator[None]:
        """However the body ends, the journal tells. What the machine did to a run leaves it KILLED, to be resumed."""
        if self.journal is None:
            with distributed.peers():
                yield
            return
        try:
            with distributed.peers():
                yield
            self._close("FINISHED")
        except BaseException as error:
            better = explained(error, self.run.id, self.parts.state.step)
            stopped = isinstance(better, KeyboardInterrupt | Unfinished)
            with suppress(OSError):  # a full disk: what is raised below says so
                if not isinstance(error, KeyboardInterrupt):
                    self.journal.write("tags", values={"error": f"{type(better).__name__}: {better}"[:1000]})
                    keep_text(self.journal, "error.txt", traceback.format_exc())
            with suppress(OSError):
                self._close("KILLED" if stopped else "FAILED")
            if better is error:
                raise
            raise better from error

    def _close(self, status: str) -> None:
        assert self.journal is not None
        close(self.journal, self.run, self.experiment, self.parts, status)

    def _report(self, journal: Journal) -> None:
        """The page that looks into the run. It is made of what is on record: failing, it takes nothing with it."""
        if self.splits.multi_label:
            tell(NO_REPORT)
            return
        from core.inference.network import Network
        from core.report.write import make

        parts, setup = self.parts, self.parts.setup
        views = self.experiment.tta
        network = Network(parts.state.evaluated, setup.normalize, setup.device, setup.autocast, views)
        journal.metrics(len(parts.state.history), {"peak_memory_mb": peak_memory_mb(setup.device)})
        try:
            make(journal, self.run, network, studied(self.experiment, self.splits), self._report_seconds())
        except Exception as error:
            journal.write("tags", values={"report": f"failed: {type(error).__name__}: {error}"[:1000]})
            tell(f"no report ({type(error).__name__}: {error}); labbook report {self.run.id} tries again")

    def _report_seconds(self) -> float:
        return max(REPORT_SECONDS, REPORT_SHARE * self.run.seconds)

    def _assisting(self) -> Generator[Event]:
        agreed, stop = distributed.Agreement(), self.stage.stop
        with stop.at_step_end():
            for event in self._fitted():
                if number := agreed(stop.number):
                    raise Interrupted(number, "stopped")
                yield event
            agreed.settle()

    def _recording(self, journal: Journal) -> Generator[Event]:
        parts, stop, epochs = self.parts, self.stage.stop, self.experiment.epochs
        if self.launch.mlflow:
            self.stage.mirror.follow(self.run.folder)
        steps, state = parts.context.steps_per_epoch, parts.state
        # a forward pass is about a third of a step
        forecast = Forecast(steps, epochs, state.step, overhead=parts.val.plan.count / parts.train.plan.count / 3)
        agreed = distributed.Agreement()
        saver = Saver(self.run.folder / CHECKPOINTS, self.launch.checkpoint_every, belongs(parts))
        with (
            progress(epochs, steps, self.experiment.batch_size, state.step) as shown,
            stop.at_step_end(),
            watching(journal, self.experiment, self.launch, parts, shown.say) as watch,
            saver,
        ):
            shown.say(_opening(self.run, parts))
            for event in self._fitted():
                watch(event)
                _record(journal, self.experiment, parts, event)
                shown.show(event)
                if announcement := forecast.after(event):
                    shown.say(announcement)
                number = agreed(stop.number)
                if (number or saver.due(event.step)) and state.sound:
                    _save(journal, saver, state)
                if number:
                    saver.wait()
                    where = f"{self.run.id} stopped and saved at the end of step {event.step}"
                    raise Interrupted(number, where, self.run.id)
                yield event
            agreed.settle()
            _save(journal, saver, state)
            saver.wait()
            shown.say(saver.cost())
        journal.metrics(state.step, {"checkpoint_seconds": saver.seconds_taken})

    def _fitted(self) -> Iterator[Event]:
        given = fed(self.experiment, self.launch, self.parts)
        return anomaly.explained(fit(given.setup, self.parts.state, given.train, given.val), self.parts)


def _save(journal: Journal, saver: Saver, state: State) -> None:
    """The journal first: what a checkpoint has behind it is not done again, and so must not be lost."""
    journal.sync()
    saver.save(state)


def _opening(run: Run, parts: Assembly) -> str:
    device, threads = parts.setup.device, torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    where = f"{name} ({threads} threads)" if device.type == "cpu" else name
    weights = sum(p.numel() for p in parts.state.model.parameters())
    images = f"{parts.train.plan.count:,} + {parts.val.plan.count:,} images"
    where += f", {parts.context.ranks} processes" if parts.context.ranks > 1 else ""
    return f"{run.id}: {images}, {weights:,} parameters, {where}, {parts.precision}"


def _record(journal: Journal, experiment: Experiment, parts: Assembly, event: Event) -> None:
    if event.validation is None:
        if event.metrics:
            journal.metrics(event.step, event.metrics)
        return
    journal.metrics(event.epoch + 1, event.metrics)
    if best_epoch(parts.state.history, experiment.monitor) == event.epoch:
        save_weights(parts.state.evaluated, journal.artifact(WEIGHTS))
