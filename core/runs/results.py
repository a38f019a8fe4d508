"""Final results of a run: test metrics, plots and summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import nn

from core.common import plots
from core.common.blocks import qualified, with_task
from core.common.errors import Unfinished, UserError
from core.common.terminal import tell
from core.diagnostics.network_graph import network_graph
from core.inference.answers import log_answers, name_of
from core.loading.images import Images
from core.metrics.answers import Answers
from core.metrics.base import Metric, undefined
from core.metrics.confusion import cells
from core.metrics.names import DENSE
from core.metrics.task import Confusion, PerClass, Task
from core.models.footprint import footprints
from core.models.tta import averaged
from core.record import provenance
from core.record.journal import Journal, log_rows, log_text
from core.record.ledger import note_reading
from core.record.run import COMPRESSION, CONFUSION, CONFUSION_PAIRS, GRAPH, RECORD, WEIGHTS
from core.record.summary import write_summary
from core.runs.trained import Run
from core.training.assemble import Assembly, whole
from core.training.collect import Collector
from core.training.evaluate import Evaluation, evaluate


def evaluate_kept(
    parts: Assembly, weights: Mapping[str, torch.Tensor] = MappingProxyType({})
) -> tuple[Evaluation, list[Answers]]:
    """Evaluate weights, given in rank 0, on val and test, which are divided among the processes: (the evaluation of
    test, the answers for both)."""
    parts.state.parallel.load(parts.state.evaluated, weights)
    _, val = evaluate_split(parts, "val", parts.splits.val)
    result, test = evaluate_split(parts, "test", parts.splits.test)
    return result, [val, test]


def evaluate_split(parts: Assembly, split: str, images: Images) -> tuple[Evaluation, Answers]:
    """Evaluate the network on the images of a split, as the test of a run does."""
    setup, splits = parts.setup, parts.splits
    collector = Collector(split, splits.classes, parts.experiment.metrics, splits.tasks)
    with setup.precision():
        network = averaged(parts.state.evaluated, parts.experiment.tta, setup.task)
        batches = parts.held_out(images)
        result = evaluate(network, setup.loss, batches, setup.normalize, setup.classes, setup.task, collector)
    assert result.answers is not None
    return result, replace(result.answers, groups=images.groups)


def test(journal: Journal, parts: Assembly) -> None:
    """Evaluate the weights of the best epoch on the test split and record the metrics. Raises Unfinished if the weights
    have been damaged: a resume restores them."""
    from safetensors.torch import load_file

    run = Run(journal.folder)
    try:
        weights = run.artifact(WEIGHTS)
    except UserError as damage:
        raise Unfinished(str(damage), run.id) from None
    kept = load_file(weights)
    note_reading(parts.splits.digest, parts.splits.name, "run", run.id)
    result, answers = evaluate_kept(parts, kept)
    best = parts.experiment.best_epoch(parts.state.history)
    keep(journal, best + 1, result, answers, parts.experiment.metrics, parts.setup.task)
    if parts.experiment.prune or parts.experiment.quantize:
        _keep_compression(journal, parts)


def keep(
    journal: Journal,
    epoch: int,
    result: Evaluation,
    answers: Sequence[Answers],
    declared: Sequence[Metric],
    task: Task,
) -> None:
    """Record the evaluation of test, and the answers for val and test. declared: the metrics of the declaration."""
    classes = answers[0].classes
    for metric in declared:
        if metric.label() not in result.metrics:
            tell(f"test/{metric.label()} is not recorded: it is not defined: {undefined(answers[-1])}")
    journal.metrics(epoch, {f"test/{name}": value for name, value in result.metrics.items()})
    for each in task.confusions(result.table):
        _keep_confusion(journal, each, classes)
    for found in answers:
        log_answers(journal, name_of(found.split), found)
    with plots.optional("per_class.csv"):
        _keep_per_class(journal, task.per_class(result.table), classes)


def _keep_compression(journal: Journal, parts: Assembly) -> None:
    """Record size and latency of the network before it was compressed and of the best epoch, measured in turn."""
    before = whole(parts.experiment, replace(parts.context, rank=1))  # rank 1 does not repeat what was loaded
    before = before.to(parts.setup.device).to(memory_format=torch.channels_last)
    shape = parts.context.image_shape
    found = footprints({"before": before, "after": parts.state.evaluated}, shape)
    log_text(journal, COMPRESSION, json.dumps({name: each.record() for name, each in found.items()}, indent=1) + "\n")


def _keep_confusion(journal: Journal, found: Confusion, classes: Sequence[str]) -> None:
    """Record a confusion matrix; that of one of several tasks has its name. classes: of all tasks."""
    table, classes = cells(found.table), classes[found.columns]
    images = int(table.sum())
    if found.task:
        classes = [name.removeprefix(qualified(found.task, "")) for name in classes]
        if not images:
            return
    title = f"{found.task} test accuracy {table.diagonal().sum() / images:.2%} (n = {images:,})".strip()
    picture, matrix = (with_task(name, found.task) for name in (plots.MATRIX, CONFUSION))
    with plots.optional(picture):
        plots.confusion_matrix(table, classes, journal.artifact(picture), title)
        journal.log_artifact(picture)
    if len(classes) > DENSE:
        with plots.optional(CONFUSION_PAIRS):
            pairs = zip(*table.coords, table.data, strict=True)
            rows = ([classes[true], classes[predicted], count] for true, predicted, count in pairs)
            log_rows(journal, CONFUSION_PAIRS, ["true", "predicted", "images"], rows)
        return
    with plots.optional(matrix):
        named = zip(classes, table.toarray().tolist(), strict=True)
        log_rows(journal, matrix, ["true \\ predicted", *classes], ([name, *row] for name, row in named))


def _keep_per_class(journal: Journal, found: PerClass, classes: Sequence[str]) -> None:
    each = zip(classes, found.counts.tolist(), found.figures.tolist(), strict=True)
    log_rows(
        journal,
        "per_class.csv",
        ["class", "images", *found.names],
        ([name, n, *(f"{x:.6f}" for x in row)] for name, n, row in each),
    )


def curves(journal: Journal, parts: Assembly) -> None:
    """Plot the learning curves of the finished epochs."""
    history = parts.state.history
    with plots.optional(plots.CURVES):
        plots.learning_curves(history, parts.experiment.best_epoch(history), journal.artifact(plots.CURVES))
        journal.log_artifact(plots.CURVES)


def graph(journal: Journal, parts: Assembly, network: nn.Module) -> None:
    """Record the graph of the network, on the device of training, for the mirror of TensorBoard, which does not have
    it."""
    with plots.optional(GRAPH):
        journal.artifact(GRAPH).write_bytes(network_graph(network, parts.context.image_shape))
        journal.log_artifact(GRAPH)


def close(journal: Journal, parts: Assembly, status: str) -> None:
    """Record the end of a run, whatever its status: tags, weights, curves, peak memory, summary and status."""
    run, history = Run(journal.folder), parts.state.history
    try:
        if history:
            best = parts.experiment.best_epoch(history)
            journal.write("tags", values={"best_epoch": str(best + 1), "epochs_done": str(len(history))})
            if journal.artifact(WEIGHTS).exists():  # a search keeps the weights of its best trials only
                journal.log_artifact(WEIGHTS)
            # the curves of a finished run have been plotted already; trials of a search have none
            if status != "FINISHED" and (run.folder / "artifacts" / RECORD).exists() and run.record["trial"] is None:
                curves(journal, parts)
        journal.metrics(len(history), {"peak_memory_mb": peak_memory_mb(parts.setup.device)})
    finally:
        try:
            write_summary(run, status)
        finally:
            journal.close(status)


def peak_memory_mb(device: torch.device) -> float:
    """Returns the peak memory in MB: allocations on a CUDA device, otherwise resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return provenance.peak_memory_mb()
