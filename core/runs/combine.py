"""Combination: a run that is made of finished runs, an ensemble or a soup, and is put on record like any other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import nn

from core.catalogue import experiments_of
from core.common.device import device_of
from core.common.errors import UserError
from core.common.precision import autocast_of
from core.experiment import Experiment
from core.inference.answers import missing, read
from core.inference.average import Gain, gain, refuse_unpaired
from core.launch import Launch
from core.metrics.answers import Answers
from core.metrics.task import task_of
from core.models import forward_flops
from core.models.weights import serialized
from core.record import provenance
from core.record.journal import Journal, log_text
from core.record.lock import locked
from core.record.run import COMBINED, WEIGHTS
from core.record.summary import write_summary
from core.runs.members import refuse_different
from core.runs.recorder import RunInfo, RunSpec, network_facts, new_run, open_journal, write_record
from core.runs.results import keep
from core.runs.trained import Run
from core.training.evaluate import Evaluation

EPOCH = 1  # of the metrics of a run that was not trained


@dataclass(frozen=True)
class Combination:
    """What is put on record.

    kind: "ensemble" or "soup".  experiment: its declaration.  members: its runs with their weights, whose sum is 1.
    network: with its weights.  data: of the record.  val, test: the evaluation of each split, and the answers.
    """

    kind: str
    experiment: Experiment
    members: Sequence[tuple[Run, float]]
    network: nn.Module
    data: Mapping[str, Any]
    val: tuple[Evaluation, Answers]
    test: tuple[Evaluation, Answers]


@dataclass(frozen=True)
class Selection:
    """What was made of runs.

    run: on record; None if no other run improves the best one.  members: id -> weight.  best: id of the run that is the
    best on val.  metric: by which it was chosen.  val, test: its value, and the difference to that of the best run.
    """

    run: Run | None
    members: Mapping[str, float]
    best: str
    metric: str
    val: Gain | None = None
    test: Gain | None = None


def val_answers(runs: Sequence[Run]) -> list[Answers]:
    """The val answers of runs that are to be combined. No test answer is read.

    Raises UserError if there is a single run, if the runs differ in classes, image size, data or `quantize`, or if one
    has no answers for val or test.
    """
    if len(runs) < 2:
        raise UserError([f"{', '.join(run.id for run in runs)}: name two runs or more, or a parent of several"])
    refuse_different(runs, data=True)
    runs[0].refuse_tasks("ensembles and soups do")
    if len({run.experiment.quantize for run in runs}) > 1:
        raise UserError(["some of the runs declare quantize and others do not, or otherwise; combine runs of one kind"])
    if lacking := [line for run in runs for split in ("val", "test") if (line := missing(run, split))]:
        raise UserError(lacking)
    return paired(runs, "val")


def paired(runs: Sequence[Run], split: str) -> list[Answers]:
    """The answers of runs for a split. Raises UserError if they are for different images."""
    found = [read(run, split) for run in runs]
    for run, answers in zip(runs, found, strict=True):
        try:
            refuse_unpaired(found[0], answers)
        except UserError as mistake:
            folds = any((each.record["declaration"] or {}).get("fold") for each in runs)
            advice = "; labbook evaluate and labbook predict give the mean answer of folds" if folds else ""
            raise UserError([f"{runs[0].id} and {run.id}: {mistake}{advice}"]) from None
    return found


def recorded(made: Combination, best: Run, metric: str, title: str | None) -> Selection:
    """Put a combination on record, and measure what it gains over the best run. title: its name; None: its kind and
    the number of runs, for display. Raises UserError if nothing can be written; nothing is on record then."""
    gains = [gain(read(best, answers.split), answers, metric) for _, answers in (made.val, made.test)]
    run = _put(made, title)
    return Selection(run, {member.id: weight for member, weight in made.members}, best.id, metric, *gains)


def _put(made: Combination, title: str | None) -> Run:
    first, _ = made.members[0]
    shown = title or f"{made.kind} of {len(made.members)}"
    name, description = first.record["experiment"], first.opening.get("description", "")
    run, journal = new_run(name)
    try:
        with locked(run.folder):
            _write(made, run, journal, RunInfo(name, made.kind, shown, description, name=title or ""))
    except BaseException as error:  # what is half written would be no run
        with suppress(OSError):
            journal.close(None)
        shutil.rmtree(run.folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError([f"{run.folder}: {error.strerror or error}; nothing was recorded"]) from None
        raise
    return run


def _write(made: Combination, run: Run, journal: Journal, info: RunInfo) -> None:
    """The record is written last, after the status: a process that dies before leaves no run behind, and one that dies
    afterwards a finished one."""
    first, _ = made.members[0]
    launch = Launch.read(first.record["launch"])
    spec = RunSpec(made.experiment, launch, info)
    device = device_of()  # that of its runs need not be here
    data = dict(made.data)
    members = ", ".join(f"{member.id} ({weight:.4g})" for member, weight in made.members)
    facts = {
        "seed": str(made.experiment.seed),
        "smoke": str(launch.smoke).lower(),
        "precision": autocast_of(made.experiment.precision, device)[1],
        **network_facts(
            sum(p.numel() for p in made.network.parameters()), forward_flops(made.network, tuple(data["image_shape"]))
        ),
        **provenance.hardware(device),
    }
    tags = open_journal(journal, spec, f"{info.title} {run.id[-4:]}", facts)
    journal.write("tags", values={COMBINED: made.kind, "members": members, "best_epoch": str(EPOCH)})
    profile = {name: data[name] for name in ("train", "val", "test", "image_shape")}
    source = {name: data[name] for name in ("name", "digest", "source")}
    journal.write("dataset", **source, context="validation", profile=profile)
    log_text(journal, "packages.txt", provenance.packages())
    journal.replace(WEIGHTS, serialized(made.network))
    journal.log_artifact(WEIGHTS)
    journal.metrics(EPOCH, {f"val/{name}": value for name, value in made.val[0].metrics.items()})
    answers = [made.val[1], made.test[1]]
    keep(journal, EPOCH, made.test[0], answers, made.experiment.metrics, task_of(answers[0].multi_label))
    combined = [
        {"run": member.id, "weight": weight, "experiments": experiments_of(member.record)}
        for member, weight in made.members
    ]
    weights = first.record.get("weights")
    journal.write("status", value="FINISHED")
    write_record(journal, spec, tags, **{"data": data, "continued": None, "weights": weights, COMBINED: combined})
    write_summary(run, "FINISHED")
    journal.close(None)
