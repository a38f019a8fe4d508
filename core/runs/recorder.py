"""What a run writes of itself besides its metrics; core/record/run.py reads it back."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from core.common import paths
from core.common.errors import UserError
from core.common.ranks import invocation
from core.diagnostics.contact_sheet import LOOK, contact_sheet
from core.experiment import Experiment
from core.launch import Launch
from core.models import forward_flops
from core.record import provenance
from core.record.journal import Journal, keep_text, read
from core.record.run import RECORD, VERSION, WEIGHTS, run_id
from core.runs.trained import Run

if TYPE_CHECKING:
    from core.training.assemble import Assembly


@dataclass(frozen=True)
class Heading:
    """What a run is called. experiment: the folder under experiments/.  parent: the id of the run it belongs to.
    title: what sets it apart from the experiment's other runs, for people.  trial: its number in a study."""

    experiment: str = "notebook"
    variant: str | None = None
    title: str = "base"
    description: str = ""
    parent: str | None = None
    trial: int | None = None


@dataclass(frozen=True)
class RunSpec:
    """What is asked for: a declaration, where and how it runs, what the run is called."""

    experiment: Experiment
    launch: Launch
    heading: Heading

    @classmethod
    def of(cls, experiment: Experiment, launch: Launch | None, heading: Heading | str) -> Self:
        """heading: or just the experiment's name."""
        return cls(experiment, launch or Launch(), Heading(heading) if isinstance(heading, str) else heading)


def new_run(experiment: str) -> tuple[Run, Journal]:
    """A run of its own and its open journal. Raises UserError where nothing can be written."""
    run = Run(paths.runs() / run_id(experiment))
    try:
        return run, Journal(run.folder)
    except OSError as error:
        advice = "LABBOOK_HOME names another folder for mlruns/ and data/store"
        raise UserError([f"runs cannot be written to {paths.runs()}: {error.strerror}; {advice}"]) from None


def open_run(journal: Journal, heading: Heading, parts: Assembly, continued: Run | None = None) -> None:
    """The first entries of a run: what is declared, where it runs, what code and data it stands on.

    The record comes last: what dies before it is no run yet, what dies after it is resumed and lacks nothing.
    """
    experiment, splits = parts.experiment, parts.splits
    facts = {
        "seed": str(experiment.seed),
        "smoke": str(parts.launch.smoke).lower(),
        "precision": parts.precision,
        "parameters": str(sum(p.numel() for p in parts.state.model.parameters())),
        "flops": str(forward_flops(parts.state.model, parts.context.image_shape) or "unknown"),
        **{f"launch.{name}": str(value) for name, value in parts.launch.flat().items()},
        **provenance.hardware(parts.setup.device),
        "hardware.processes": str(parts.context.ranks),
        **({"continued": continued.id} if continued else {}),
    }
    data = {
        "name": splits.name,
        "digest": splits.digest,
        "source": splits.source,
        "classes": list(splits.classes),
        "multi_label": splits.multi_label,
        "class_counts": list(parts.context.class_counts),
        "image_shape": list(parts.context.image_shape),
        "train": parts.context.train_size,
        "val": len(splits.val),
        "test": len(splits.test),
        "mean": list(parts.mean),
        "std": list(parts.std),
    }
    spec = RunSpec(experiment, parts.launch, heading)
    tags = open_journal(journal, spec, f"{heading.title} seed {experiment.seed}", facts)
    profile = {name: data[name] for name in ("train", "val", "test", "image_shape")}
    journal.write(
        "dataset", name=splits.name, digest=splits.digest, source=splits.source, context="training", profile=profile
    )
    if continued:  # its best epoch may remain the best
        shutil.copyfile(continued.folder / "artifacts" / WEIGHTS, journal.artifact(WEIGHTS))
    contact_sheet(journal.artifact(LOOK), parts)
    journal.keep(LOOK)
    keep_text(journal, "packages.txt", provenance.packages())
    diff, untracked = provenance.uncommitted()
    if diff:
        keep_text(journal, "code/uncommitted.diff", diff)
    for file in untracked:
        shutil.copyfile(paths.ROOT / file, journal.artifact(f"code/untracked/{file}"))
        journal.keep(f"code/untracked/{file}")
    origin = experiment.model.origin()
    more = {"data": data, "continued": continued and continued.id, "weights": origin and origin.record()}
    keep_record(journal, spec, tags, **more)


def reopen_run(journal: Journal) -> None:
    """Another event "run", with the process that goes on with it."""
    events = [event for _, event in read(journal.folder)]
    first = next(event for event in events if event["event"] == "run")
    told = {name: value for name, value in first.items() if name not in ("event", "time", "pid", "host")}
    journal.write("run", **told, pid=os.getpid(), host=platform.node())
    journal.write("status", value="RUNNING")
    if not any(event["event"] == "artifact" and event["path"] == RECORD for event in events):
        journal.keep(RECORD)  # it died between writing the file and saying so


def open_journal(journal: Journal, spec: RunSpec, name: str, tags: dict[str, str]) -> dict[str, str]:
    """What every run's journal begins with, also a parent's of several seeds; the tags that it now has.

    name: for people; need not be unique.
    """
    code, heading = provenance.code(), spec.heading
    tags = {
        **({"invocation": started_by} if (started_by := invocation()) else {}),
        "variant": heading.variant or "base",
        **({"trial": str(heading.trial)} if heading.trial is not None else {}),
        "mlflow.source.name": provenance.command(),
        **code,
        **({"mlflow.source.git.commit": code["git.commit"]} if code else {}),  # MLflow's pages link it to the source
        **provenance.versions(),
        **tags,
    }
    journal.write(
        "run",
        id=journal.run_id,
        experiment=heading.experiment,
        name=name,
        description=heading.description,
        parent=heading.parent,
        pid=os.getpid(),
        host=platform.node(),
    )
    journal.write("params", values={name: str(value) for name, value in spec.experiment.flat().items()})
    journal.write("tags", values=tags)
    return tags


def keep_record(journal: Journal, spec: RunSpec, facts: dict[str, str], **more: Any) -> None:
    """record.json: all that is needed to do it again."""
    heading = spec.heading
    record = {
        "labbook": VERSION,
        "run": journal.run_id,
        "experiment": heading.experiment,
        "variant": heading.variant,
        "parent": heading.parent,
        "trial": heading.trial,
        "declaration": spec.experiment.record(),
        "launch": spec.launch.record(),
        "facts": facts,
        **more,
    }
    keep_text(journal, RECORD, json.dumps(record, indent=2) + "\n")
