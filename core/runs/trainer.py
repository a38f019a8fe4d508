"""Trainer: iterates the training loop and writes the journal, best weights, checkpoints and progress of a run."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace

import torch

from core.augment import Resize
from core.common.errors import Interrupted, NothingValidated, Unfinished
from core.common.terminal import tell
from core.diagnostics import anomaly
from core.diagnostics.observers import watching
from core.inference.network import Network, model_of
from core.loading.loader import chosen
from core.models.norms import slow_statistics
from core.record.journal import Journal, log_text
from core.record.run import WEIGHTS
from core.runs.failures import explained
from core.runs.progress import Forecast, Progress, progress
from core.runs.results import close, curves, evaluate_kept, graph, peak_memory_mb, test
from core.runs.trained import Run
from core.training import distributed
from core.training.assemble import Assembly, belongs
from core.training.checkpoint import CHECKPOINTS, keep_last
from core.training.compiled import NO
from core.training.exchange import SavedTogether
from core.training.feature_cache import fit_cached
from core.training.loop import Event
from core.training.parallel import Saves
from core.training.runtime import Runtime
from core.training.state import State

ERROR, RESOLVED = "error.txt", "resolved: the run was resumed"
NO_REPORT = "no report is written for a multi-label run; per_class.csv holds the metrics of each label"
NO_REPORT_OF_TASKS = "no report is written for several tasks; each has its metrics and its confusion matrix on record"
# time limit of the report: the larger of REPORT_SECONDS and this fraction of the training time
REPORT_SECONDS, REPORT_FRACTION = 20.0, 0.05


@dataclass(frozen=True)
class Trainer:
    """A run that has started and not yet ended.

    journal: the open journal in the process of rank 0; None in the other processes, which take the same steps and
    record nothing.  fitted: what trains.  display: builds what shows the progress.
    """

    run: Run
    journal: Journal | None
    parts: Assembly
    runtime: Runtime
    fitted: Callable[[Assembly], Iterator[Event]] = fit_cached
    display: Callable[..., Progress] = progress

    def to_the_end(self) -> None:
        """Train to the end, evaluate on the test split, and write plots and report. Raises NothingValidated."""
        if self.journal:
            tell(self.parts.splits.summary())
        with closing(self.events()) as events:
            for _ in events:
                pass
        self.finish()

    def finish(self) -> None:
        """After training: evaluate on the test split, and write plots and report. Raises NothingValidated."""
        monitor, history = self.parts.experiment.monitor, self.parts.state.history
        if all(math.isnan(entry[monitor]) for entry in history):
            raise NothingValidated(monitor, len(history))
        if self.journal is None:
            evaluate_kept(self.parts)
            return
        test(self.journal, self.parts)
        curves(self.journal, self.parts)
        if "tensorboard" in self.parts.launch.also:
            graph(self.journal, self.parts, self._network().model)
        self._report(self.journal)
        keep_last(self.run.folder / CHECKPOINTS)

    def events(self) -> Generator[Event]:
        """Train from the current state; each event is yielded after it has been recorded.

        The caller may stop early by closing the generator; what was recorded is kept. Raises Interrupted at the end of
        the step during which a signal arrived, after saving a checkpoint, and NonFinite.
        """
        return self._assisting() if self.journal is None else self._recording(self.journal)

    @contextmanager
    def on_record(self) -> Iterator[None]:
        """Context manager that records how its body ends.

        The status is FINISHED, FAILED after an error, or KILLED after a signal or a failure of the machine, so that the
        run can be resumed.
        """
        if self.journal is None:
            with distributed.peers():
                yield
            return
        try:
            with distributed.peers():
                yield
            self._mark_error_as_resolved(self.journal)
            self._close("FINISHED")
        except BaseException as error:
            better = explained(error, self.run.id, self.parts.state.step)
            stopped = isinstance(better, KeyboardInterrupt | Unfinished)
            with suppress(OSError):  # a full disk is reported by the error raised below
                if not isinstance(error, KeyboardInterrupt):
                    self.journal.write("tags", values={"error": f"{type(better).__name__}: {better}"[:1000]})
                    log_text(self.journal, ERROR, traceback.format_exc())
            with suppress(OSError):
                self._close("KILLED" if stopped else "FAILED")
            if better is error:
                raise
            raise better from error

    def _mark_error_as_resolved(self, journal: Journal) -> None:
        """Say in the tag and the file of an error that a resume has finished the run since."""
        error = self.run.tags.get("error", "")
        if not error or error.startswith(RESOLVED):
            return
        journal.write("tags", values={"error": f"{RESOLVED}: {error}"[:1000]})
        if (path := journal.artifact(ERROR)).is_file():
            log_text(
                journal, ERROR, f"{RESOLVED}, and it finished. Before that, it had stopped with:\n\n{path.read_text()}"
            )

    def _close(self, status: str) -> None:
        assert self.journal is not None
        close(self.journal, self.parts, status)

    def _report(self, journal: Journal) -> None:
        """Write the report. An error in it is recorded as a tag and does not fail the run."""
        if not self.parts.setup.task.exclusive:
            tell(NO_REPORT_OF_TASKS if self.parts.splits.tasks else NO_REPORT)
            return
        from core.report.write import make

        parts = self.parts
        journal.metrics(len(parts.state.history), {"peak_memory_mb": peak_memory_mb(parts.setup.device)})
        try:
            make(journal, self.run, self._network(), parts.splits, self._report_seconds())
        except Exception as error:
            journal.write("tags", values={"report": f"failed: {type(error).__name__}: {error}"[:1000]})
            failure = f"{type(error).__name__}: {error}"
            tell(f"the report could not be written ({failure}); run labbook report {self.run.id} to try again")

    def _network(self) -> Network:
        """The network of the best epoch, in this process alone."""
        trained = self.parts.network
        if not self.parts.state.parallel.divided:
            return trained
        return replace(trained, model=model_of(self.run).to(trained.device))

    def _report_seconds(self) -> float:
        return max(REPORT_SECONDS, REPORT_FRACTION * self.run.seconds)

    def _assisting(self) -> Generator[Event]:
        parts, agreed, stop = self.parts, distributed.Agreement(), self.runtime.stop
        together, state = SavedTogether(parts.state), parts.state
        with stop.at_step_end(), self._saver() as saver:
            for event in self._fitted():
                _best(parts, event)
                number = agreed(stop.number)
                if (together(saver.due(event.step)) or number) and state.sound:
                    state.gather()
                    saver.save(state)
                if number:
                    raise Interrupted(number, "stopped")
                yield event
            agreed.settle()
            together.settle()
            state.gather()
            saver.save(state)

    def _saver(self) -> AbstractContextManager[Saves]:
        """What writes the checkpoints of this process."""
        parts, folder = self.parts, self.run.folder / CHECKPOINTS
        return parts.state.parallel.saver(folder, parts.launch.checkpoint_every, belongs(parts))

    def _recording(self, journal: Journal) -> Generator[Event]:
        parts, stop, epochs = self.parts, self.runtime.stop, self.parts.experiment.epochs
        self.runtime.mirror.follow(self.run.folder)
        steps, state = parts.context.steps_per_epoch, parts.state
        # a forward pass is about a third of a step
        forecast = Forecast(steps, epochs, state.step, overhead=parts.val.plan.count / parts.train.plan.count / 3)
        agreed, together = distributed.Agreement(), SavedTogether(state)
        with (
            self.display(epochs, steps, parts.context.batch_size, state.step, _labels(parts)) as display,
            stop.at_step_end(),
            watching(journal, parts, display.say) as watch,
            self._saver() as saver,
        ):
            display.say(_opening(self.run, parts))
            for note in _notes(parts):
                display.say(note)
            for event in self._fitted():
                watch(event)
                _record(journal, parts, event)
                display.show(event)
                if announcement := forecast.after(event):
                    display.say(announcement)
                number = agreed(stop.number)
                if (together(saver.due(event.step)) or number) and state.sound:
                    _save(journal, saver, state)
                if number:
                    saver.wait()
                    where = f"{self.run.id} stopped and saved at the end of step {event.step}"
                    raise Interrupted(number, where, self.run.id)
                yield event
            agreed.settle()
            together.settle()
            _save(journal, saver, state)
            saver.wait()
            display.say(saver.cost())
        journal.metrics(state.step, {"checkpoint_seconds": saver.seconds_taken})

    def _fitted(self) -> Iterator[Event]:
        return anomaly.explained(self.fitted(self.parts), self.parts)


def _save(journal: Journal, saver: Saves, state: State) -> None:
    """Sync the journal, then save a checkpoint: steps before a checkpoint are not run again, so their entries must not
    be lost."""
    journal.sync()
    saver.save(state)


def _opening(run: Run, parts: Assembly) -> str:
    device, threads = parts.setup.device, torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    where = f"{name} ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else name
    images = f"{parts.train.plan.count:,} training and {parts.val.plan.count:,} validation images"
    where += f", {parts.context.ranks} processes" if parts.context.ranks > 1 else ""
    where += f", {shards} virtual shards" if (shards := parts.launch.deterministic_ranks) else ""
    used, declared = parts.context.batch_size, parts.experiment.batch_size
    images += f" in batches of {used} (declared: {declared})" if used != declared else ""
    compiled = ", compiled" if parts.compiled != NO else ""
    rules = f"{chosen(parts.train)}, channels_last, evaluation in batches of {parts.val.plan.size}"
    return f"{run.id}: {images}, {parts.parameters:,} parameters, {where}, {parts.precision}{compiled}; {rules}"


def _labels(parts: Assembly) -> list[str]:
    return [metric.label() for metric in parts.experiment.metrics]


def _notes(parts: Assembly) -> Iterator[str]:
    """Yield what the user should know about a declaration before it is trained."""
    if parts.experiment.lora:
        counts = [p.numel() for p in parts.state.model.parameters() if p.requires_grad]
        yield f"lora: {sum(counts):,} parameters are trained; the weights on record are those of the plain network"
    declared = {
        "grad_compress": parts.experiment.grad_compress != "none",
        "sync_every": parts.experiment.sync_every > 1,
    }
    for name in (name for name, there in declared.items() if there and parts.context.ranks == 1):
        yield f"{name}: no effect with one process"
    ema, steps = parts.experiment.ema, parts.setup.epochs * len(parts.train.plan)
    if ema and (note := ema.note(steps)):
        yield note
    batches = steps * parts.setup.grad_accum_steps
    if parts.experiment.model.weights is None and (note := slow_statistics(parts.state.model, batches)):
        yield note
    if parts.setup.epochs == 1 and any(isinstance(step, Resize) for step in parts.experiment.augment):
        yield "augment.resize: in a run of one epoch, all images have the full size"


def _record(journal: Journal, parts: Assembly, event: Event) -> None:
    if event.validation is None:
        if event.metrics:
            journal.metrics(event.step, event.metrics)
        return
    journal.metrics(event.epoch + 1, event.metrics)
    if weights := _best(parts, event):
        journal.replace(WEIGHTS, weights)


def _best(parts: Assembly, event: Event) -> bytes:
    """The weights after the best epoch so far, in rank 0, if this event is its end; otherwise empty. Called in every
    process, because each may have a part of the network."""
    if event.validation is None or parts.experiment.best_epoch(parts.state.history) != event.epoch:
        return b""
    return parts.state.parallel.serialized(parts.state.evaluated)
