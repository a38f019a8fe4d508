"""Writes the record of a run besides its metrics; core/record/run.py reads it back."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from core.common import paths
from core.common.errors import UserError
from core.common.plots import optional
from core.common.ranks import invocation
from core.common.terminal import tell
from core.diagnostics.contact_sheet import LOOK, contact_sheet
from core.experiment import Experiment
from core.launch import Launch
from core.record import provenance, sources
from core.record.ids import new_id
from core.record.journal import Journal, log_text, read
from core.record.labels import NAME, write_labels
from core.record.latest import link_latest
from core.record.run import RECORD, VERSION, WEIGHTS
from core.runs.trained import Run

if TYPE_CHECKING:
    from core.training.assemble import Assembly


@dataclass(frozen=True)
class RunInfo:
    """Names of a run.

    experiment: the folder under experiments/.  title: distinguishes the run from others of the experiment, for display.
    description: text shown in MLflow and in the report.  parent: id of the run it belongs to.  trial: its number in a
    study.  name, tags: labels of the user, which can be changed later; see core/record/labels.py.
    """

    experiment: str = "notebook"
    variant: str | None = None
    title: str = "base"
    description: str = ""
    parent: str | None = None
    trial: int | None = None
    name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def below(self, parent: str | None, title: str, apart: str, trial: int | None = None) -> Self:
        """Names of a run below a parent, which inherits its tags. apart: tells its name from those of the others."""
        return replace(self, parent=parent, title=title, trial=trial, name=self.name and f"{self.name} {apart}")


@dataclass(frozen=True)
class RunSpec:
    """Specification of a run: its declaration, its launch options and its names."""

    experiment: Experiment
    launch: Launch
    info: RunInfo

    @classmethod
    def of(cls, experiment: Experiment, launch: Launch | None, info: RunInfo | str) -> Self:
        """Build a specification with default launch options. info: a RunInfo, or the name of the experiment."""
        return cls(experiment, launch or Launch(), RunInfo(info) if isinstance(info, str) else info)


def new_run(experiment: str) -> tuple[Run, Journal]:
    """Create a run and open its journal. Raises UserError if the folder cannot be written."""
    run = Run(paths.runs() / new_id(experiment))
    try:
        return run, Journal(run.folder)
    except OSError as error:
        advice = "set LABBOOK_HOME to another folder for mlruns/ and data/store"
        raise UserError([f"runs cannot be written to {paths.runs()}: {error.strerror}; {advice}"]) from None


def network_facts(parameters: int, flops: int | None) -> dict[str, str]:
    """The number of parameters of a network and the FLOPs for one image, for the facts of a run."""
    return {
        "parameters": str(parameters),
        "flops": str(flops or "unknown"),
    }


def open_run(journal: Journal, info: RunInfo, parts: Assembly, continued: Run | None = None) -> None:
    """Write the first entries of a run: declaration, hardware, code and data.

    The record is written last: a process that dies before leaves no run behind; one that dies after leaves a complete
    run that can be resumed.
    """
    experiment, splits = parts.experiment, parts.splits
    facts = {
        "seed": str(experiment.seed),
        "smoke": str(parts.launch.smoke).lower(),
        "precision": parts.precision,
        "compiled": parts.compiled,
        **network_facts(parts.parameters, parts.flops()),
        **{f"launch.{name}": str(value) for name, value in Launch.read(parts.launch.record()).flat().items()},
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
        **({"tasks": [list(block) for block in splits.tasks]} if splits.tasks else {}),
        "class_counts": list(parts.context.class_counts),
        "image_shape": list(parts.context.image_shape),
        "train": parts.context.train_size,
        "val": len(splits.val),
        "test": len(splits.test),
        "mean": list(parts.mean),
        "std": list(parts.std),
    }
    spec = RunSpec(experiment, parts.launch, info)
    # the end of the id tells repetitions apart in MLflow's tables
    name = f"{info.title} seed {experiment.seed} {journal.run_id[-4:]}"
    tags = open_journal(journal, spec, name, facts)
    profile = {name: data[name] for name in ("train", "val", "test", "image_shape")}
    journal.write(
        "dataset", name=splits.name, digest=splits.digest, source=splits.source, context="training", profile=profile
    )
    if continued:  # the best epoch may remain one of the continued run
        journal.replace(WEIGHTS, continued.artifact(WEIGHTS).read_bytes())
    with optional(LOOK):
        contact_sheet(journal.artifact(LOOK), parts)
        journal.log_artifact(LOOK)
    log_text(journal, "packages.txt", provenance.packages())
    _log_code(journal, parts, tags)
    origin = experiment.model.origin()
    more: dict[str, Any] = {
        "data": data,
        "continued": continued and continued.id,
        "weights": origin and origin.record(),
    }
    teachers = {name: each.record() for name, each in experiment.pretrained.items()}
    if teachers:
        more["weights_of_method"] = teachers
    directions = {name.removeprefix("val/"): better for name, better in experiment.directions.items()}
    write_record(journal, spec, tags, directions=directions, **more)


def _log_code(journal: Journal, parts: Assembly, tags: dict[str, str]) -> None:
    """Write digests of the sources and what git does not have of them. Print what is not recorded."""
    imported, launch = sources.imported(), parts.launch
    found = sources.snapshot(launch.snapshot, imported)
    log_text(journal, sources.FILE, sources.to_record(launch.snapshot, imported, found.left_out))
    if found.diff:
        log_text(journal, sources.DIFF_FILE, found.diff)
    for file, content in found.files.items():
        log_text(journal, f"{sources.UNTRACKED}/{file}", content)
    if reason := tags.get("git.unknown"):
        _tell_once(f"the record has no commit ({reason}): a rerun can compare the code, but not restore it")
    if what := tags.get("git.unrecorded"):
        _tell_once(f"the record lacks {what}: a rerun cannot restore the code")
    for file, reason in found.left_out.items():
        _tell_once(f"{file} is left out of the record: {reason}")
    if here := [type(part).__name__ for _, part in parts.experiment.parts() if type(part).__module__ == "__main__"]:
        _log_main(journal, here, launch.snapshot)


def _log_main(journal: Journal, names: list[str], snapshot: sources.Kind) -> None:
    """Write the source of the script or notebook that defines parts, without which the run cannot be loaded."""
    content, reason = sources.main_source() if snapshot != "none" else (b"", "--snapshot none")
    if content:
        log_text(journal, sources.MAIN, content)
    where = f"their source is {sources.MAIN} in the record" if content else f"their source is not recorded: {reason}"
    advice = "they can be loaded where they are defined; to load them anywhere, move them to a file of an experiment"
    _tell_once(f"{', '.join(names)}: defined in a notebook or script; {where}; {advice}, such as NAME/loss.py")


@cache
def _tell_once(line: str) -> None:
    """Print a line once, not for each run of a search."""
    tell(line)


def reopen_run(journal: Journal) -> None:
    """Write another "run" event, which names the process that resumes the run."""
    events = [event for _, event in read(journal.folder)]
    opening = Run(journal.folder).opening
    fields = {name: value for name, value in opening.items() if name not in ("event", "time", "pid", "host")}
    journal.write("run", **fields, pid=os.getpid(), host=platform.node())
    journal.write("status", value="RUNNING")
    if not any(event["event"] == "artifact" and event["path"] == RECORD for event in events):
        journal.log_artifact(RECORD)  # the process died between writing the file and recording it


def open_journal(journal: Journal, spec: RunSpec, name: str, tags: dict[str, str]) -> dict[str, str]:
    """Write the first events of a journal, of a run or of the parent of several seeds. Returns the tags written.

    name: for display; need not be unique.
    """
    code, info = provenance.code(), spec.info
    tags = {
        **({"invocation": started_by} if (started_by := invocation()) else {}),
        "variant": info.variant or "base",
        **({"trial": str(info.trial)} if info.trial is not None else {}),
        "mlflow.source.name": provenance.command(),
        **code,
        **(
            {"mlflow.source.git.commit": code["git.commit"]} if "git.commit" in code else {}
        ),  # MLflow's pages link it to the source
        **provenance.versions(),
        **tags,
    }
    journal.write(
        "run",
        id=journal.run_id,
        experiment=info.experiment,
        name=info.name or name,
        description=info.description,
        parent=info.parent,
        pid=os.getpid(),
        host=platform.node(),
    )
    journal.write("params", values={name: str(value) for name, value in spec.experiment.flat().items()})
    journal.write("tags", values=tags)
    if labels := ({NAME: info.name} if info.name else {}) | dict(info.tags):
        write_labels(journal.folder, labels)
    return tags


def write_record(journal: Journal, spec: RunSpec, facts: dict[str, str], **more: Any) -> None:
    """Write record.json: everything needed to repeat the run."""
    info = spec.info
    record = {
        "labbook": VERSION,
        "run": journal.run_id,
        "experiment": info.experiment,
        "variant": info.variant,
        "parent": info.parent,
        "trial": info.trial,
        "declaration": spec.experiment.record(),
        "launch": spec.launch.record(),
        "facts": facts,
        **more,
    }
    journal.sync()  # a run with a record has the entries before it
    log_text(journal, RECORD, json.dumps(record, indent=2) + "\n")
    journal.sync()
    link_latest(journal.folder, info.experiment)
