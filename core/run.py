"""One run: build the parts, fit, test once, write the record."""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from core import paths, plots, provenance
from core.build import Assembly, assemble, check, device_of, held_out, smoked
from core.evaluate import evaluate
from core.experiment import Experiment
from core.images import Splits
from core.journal import Journal
from core.launch import Launch
from core.loop import Event, fit
from core.progress import Forecast, progress
from core.record import RECORD, SUMMARY, VERSION, WEIGHTS, Run
from core.signals import Interrupted, Stop
from core.stopping import best_epoch
from core.tracking import Mirror


@dataclass(frozen=True)
class Heading:
    """What a run is called. experiment: the folder under experiments/.  parent: the id of the run it belongs to."""

    experiment: str = "notebook"
    variant: str | None = None
    description: str = ""
    parent: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


def train(
    experiment: Experiment,
    launch: Launch | None = None,
    heading: Heading | str = "notebook",
    mirror: Mirror | None = None,
) -> Run:
    """Train a declaration and return its run, on record from the first step.

    heading: or just the experiment's name.  mirror: of an invocation with several runs; else one is started and ended
    here. Raises Mistakes (DataError among them) before anything is recorded, Interrupted after SIGTERM or Ctrl-C, and
    whatever the training itself raises, recorded as FAILED.
    """
    launch = launch or Launch()
    heading = Heading(heading) if isinstance(heading, str) else heading
    experiment = smoked(experiment) if launch.smoke else experiment
    check(experiment)
    device = device_of(launch)
    with mirrored(launch, mirror) as following, _process(launch, device), Stop() as stop:
        splits = experiment.data.load(launch.root)
        splits = splits.limited(experiment.limit) if experiment.limit else splits
        parts = assemble(experiment, splits, launch, device)
        run = Run(paths.runs() / new_id(heading.experiment))
        journal = Journal(run.folder)
        _open(journal, run, experiment, launch, heading, splits, parts)
        following.follow(run.folder)
        status = "FAILED"
        try:
            _fit(run, journal, experiment, parts, stop)
            _test(journal, experiment, splits, parts)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except BaseException as error:
            journal.write("tags", values={"error": f"{type(error).__name__}: {error}"[:1000]})
            journal.artifact("error.txt").write_text(traceback.format_exc())
            journal.keep("error.txt")
            raise
        finally:
            _close(journal, run, experiment, parts, status)
    return run


def _fit(run: Run, journal: Journal, experiment: Experiment, parts: Assembly, stop: Stop) -> None:
    """Iterate the loop: journal, best weights, progress, signals."""
    steps = parts.context.steps_per_epoch
    forecast = Forecast(steps * experiment.epochs, overhead=parts.val.plan.count / parts.train.plan.count / 3)
    with progress(experiment.epochs, steps, experiment.batch_size) as shown:
        for event in fit(parts.setup, parts.state, parts.train, parts.val):
            _record(journal, experiment, parts, event)
            shown.show(event)
            if not event.validation and (announcement := forecast.after_step()):
                shown.say(announcement)
            if stop.number:
                raise Interrupted(stop.number, run.id)


def _record(journal: Journal, experiment: Experiment, parts: Assembly, event: Event) -> None:
    if event.validation is None:
        if event.metrics:
            journal.metrics(event.step, event.metrics)
        return
    journal.metrics(event.epoch + 1, event.metrics)
    if best_epoch(parts.state.history, experiment.select) == event.epoch:
        save_weights(parts.state.evaluated, journal.artifact(WEIGHTS))


def _test(journal: Journal, experiment: Experiment, splits: Splits, parts: Assembly) -> None:
    """The one reading of the test split: the best epoch's weights, at the end."""
    from safetensors.torch import load_file

    model = parts.state.evaluated
    model.load_state_dict(load_file(journal.artifact(WEIGHTS)))
    batches = held_out(splits.test, parts.setup.device)
    with parts.setup.precision():
        result = evaluate(model, parts.setup.loss, batches, parts.setup.normalise, parts.setup.classes)
    best = best_epoch(parts.state.history, experiment.select)
    journal.metrics(best + 1, {f"test/{name}": value for name, value in result.metrics.items()})
    table = result.confusion.numpy()
    title = f"test accuracy {result.metrics['accuracy']:.2%} (n = {int(table.sum()):,})"
    plots.confusion_matrix(table, splits.classes, journal.artifact("confusion_matrix.png"), title)
    lines = [",".join(["true \\ predicted", *splits.classes])]
    lines += [",".join([name, *map(str, row)]) for name, row in zip(splits.classes, table.tolist(), strict=True)]
    journal.artifact("confusion_matrix.csv").write_text("\n".join(lines) + "\n")
    for name in ("confusion_matrix.png", "confusion_matrix.csv"):
        journal.keep(name)


def _open(
    journal: Journal,
    run: Run,
    experiment: Experiment,
    launch: Launch,
    heading: Heading,
    splits: Splits,
    parts: Assembly,
) -> None:
    """The first entries: what is declared, where it runs, what code and data it stands on."""
    facts = {
        "seed": str(experiment.seed),
        "variant": heading.variant or "",
        "smoke": str(launch.smoke).lower(),
        "precision": parts.precision,
        "parameters": str(sum(p.numel() for p in parts.state.model.parameters())),
        "mlflow.source.name": provenance.command(),
        **{f"launch.{name}": str(value) for name, value in launch.flat().items()},
        **provenance.code(),
        **provenance.versions(),
        **provenance.hardware(parts.setup.device),
        **heading.tags,
    }
    data = {
        "name": splits.name,
        "digest": splits.digest,
        "source": splits.source,
        "classes": list(splits.classes),
        "class_counts": list(parts.context.class_counts),
        "image_shape": list(parts.context.image_shape),
        "train": len(splits.train),
        "val": len(splits.val),
        "test": len(splits.test),
        "mean": list(parts.mean),
        "std": list(parts.std),
    }
    open_journal(journal, run, heading, experiment.flat(), facts)
    profile = {name: data[name] for name in ("train", "val", "test", "image_shape")}
    journal.write(
        "dataset", name=splits.name, digest=splits.digest, source=splits.source, context="training", profile=profile
    )
    record = {
        "labbook": VERSION,
        "run": run.id,
        "experiment": heading.experiment,
        "variant": heading.variant,
        "parent": heading.parent,
        "declaration": experiment.record(),
        "launch": launch.record(),
        "data": data,
        "facts": facts,
    }
    keep_text(journal, RECORD, json.dumps(record, indent=2) + "\n")
    keep_text(journal, "packages.txt", provenance.packages())
    diff, untracked = provenance.uncommitted()
    if diff:
        keep_text(journal, "code/uncommitted.diff", diff)
    for file in untracked:
        shutil.copyfile(paths.ROOT / file, journal.artifact(f"code/untracked/{file}"))
        journal.keep(f"code/untracked/{file}")


def open_journal(journal: Journal, run: Run, heading: Heading, params: dict[str, Any], tags: dict[str, str]) -> None:
    """What every run's journal begins with, a parent of several seeds included."""
    journal.write(
        "run",
        id=run.id,
        experiment=heading.experiment,
        name=run.id,
        description=heading.description,
        parent=heading.parent,
        pid=os.getpid(),
        host=platform.node(),
    )
    journal.write("params", values={name: str(value) for name, value in params.items()})
    journal.write("tags", values=tags)


def _close(journal: Journal, run: Run, experiment: Experiment, parts: Assembly, status: str) -> None:
    """What can be said of a run however it ended."""
    history = parts.state.history
    if history:
        best = best_epoch(history, experiment.select)
        journal.write("tags", values={"best_epoch": str(best + 1), "epochs_done": str(len(history))})
        plots.learning_curves(history, best, journal.artifact("learning_curves.png"))
        journal.keep("learning_curves.png")
        journal.keep(WEIGHTS)
    journal.metrics(len(history), {"peak_memory_mb": peak_memory_mb(parts.setup.device)})
    journal.close(status)
    write_summary(run, parts.setup.seed)


def write_summary(run: Run, seed: int | None = None) -> None:
    """summary.json: what listings show, so that they need not read a whole journal."""
    declared = run.record if (run.folder / "artifacts" / RECORD).exists() else {}
    whole = bool(declared) and not declared["launch"]["smoke"] and declared["declaration"]["limit"] is None
    summary = {"status": run.status, "metrics": run.metrics, "seed": seed, "whole": whole}
    temporary = run.folder / f"{SUMMARY}.part"
    temporary.write_text(json.dumps(summary))
    os.replace(temporary, run.folder / SUMMARY)


def keep_text(journal: Journal, name: str, text: str) -> None:
    journal.artifact(name).write_text(text)
    journal.keep(name)


def save_weights(model: torch.nn.Module, path: Path) -> None:
    """All weights and buffers as safetensors; the file is whole or the old one."""
    from safetensors.torch import save_file

    temporary = path.with_suffix(".part")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, temporary)
    os.replace(temporary, path)


def new_id(experiment: str) -> str:
    """<experiment>-<date>-<time>-<random>: sorts by start within an experiment."""
    return f"{experiment}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def peak_memory_mb(device: torch.device) -> float:
    """Of the device that trains: CUDA's allocations, else resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return provenance.peak_memory_mb()


@contextmanager
def mirrored(launch: Launch, mirror: Mirror | None) -> Iterator[Mirror]:
    """The given mirror, or one of this run's own, ended with it."""
    if mirror is not None:
        yield mirror
        return
    own = Mirror()
    if launch.mlflow:
        own.start()
    try:
        yield own
    finally:
        if launch.mlflow and not own.finish():
            print("MLflow has not taken everything yet; nothing is lost: labbook sync sends the rest")


@contextmanager
def _process(launch: Launch, device: torch.device) -> Iterator[None]:
    """Threads and determinism for the time of a run."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(launch.threads or provenance.cores())
    if launch.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    elif device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
