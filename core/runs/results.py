"""What a run leaves at its end: test figures, plots, summary."""

from __future__ import annotations

import numpy as np
import torch

from core.common import plots
from core.common.statistics import wilson
from core.loading.images import Splits
from core.metrics.classification import by_class, by_label
from core.metrics.names import best_epoch
from core.models.tta import averaged
from core.record import provenance
from core.record.journal import Journal, keep_rows
from core.record.run import CONFUSION, RECORD, WEIGHTS, write_summary
from core.runs.trained import Run
from core.training import distributed
from core.training.assemble import Assembly
from core.training.evaluate import Evaluation, evaluate


def judged(parts: Assembly) -> Evaluation:
    """The one reading of the test split, with the weights that the first process holds; every process takes part."""
    model, setup = parts.state.evaluated, parts.setup
    distributed.align(model, everything=True)
    batches = parts.held_out(parts.splits.test)
    with setup.precision():
        network = averaged(model, parts.experiment.tta, setup.multi_label)
        return evaluate(network, setup.loss, batches, setup.normalize, setup.classes, setup.multi_label)


def test(journal: Journal, parts: Assembly) -> None:
    """Test the best epoch's weights and put the figures on record."""
    from safetensors.torch import load_file

    parts.state.evaluated.load_state_dict(load_file(journal.artifact(WEIGHTS)))
    result = judged(parts)
    best = best_epoch(parts.state.history, parts.experiment.monitor)
    journal.metrics(best + 1, {f"test/{name}": value for name, value in result.metrics.items()})
    keep = _keep_labels if parts.splits.multi_label else _keep_classes
    keep(journal, result, parts.splits)


def _keep_classes(journal: Journal, result: Evaluation, splits: Splits) -> None:
    table, classes = result.table.numpy(), splits.classes
    title = f"test accuracy {result.metrics['accuracy']:.2%} (n = {int(table.sum()):,})"
    plots.confusion_matrix(table, classes, journal.artifact(plots.MATRIX), title)
    journal.keep(plots.MATRIX)
    rows = zip(classes, table.tolist(), strict=True)
    keep_rows(journal, CONFUSION, ["true \\ predicted", *classes], ([name, *row] for name, row in rows))
    counts = table.sum(axis=1)
    figures = np.column_stack([by_class(result.table).numpy(), *wilson(table.diagonal(), counts)])
    _keep_each(journal, splits, counts, figures, ["precision", "recall", "f1", "recall_low", "recall_high"])


def _keep_labels(journal: Journal, result: Evaluation, splits: Splits) -> None:
    counts = result.table[1].sum(dim=1).numpy()
    figures = by_label(result.table).numpy()
    _keep_each(journal, splits, counts, figures, ["average_precision", "precision", "recall", "f1"])


def _keep_each(journal: Journal, splits: Splits, counts: np.ndarray, figures: np.ndarray, names: list[str]) -> None:
    """A row for each class. counts: int64 [C], images that have it.  figures: float [C, names]."""
    each = zip(splits.classes, counts.tolist(), figures.tolist(), strict=True)
    keep_rows(
        journal,
        "per_class.csv",
        ["class", "images", *names],
        ([name, n, *(f"{x:.6f}" for x in row)] for name, n, row in each),
    )


def curves(journal: Journal, parts: Assembly) -> None:
    """The learning curves of the epochs done."""
    history = parts.state.history
    plots.learning_curves(history, best_epoch(history, parts.experiment.monitor), journal.artifact(plots.CURVES))
    journal.keep(plots.CURVES)


def close(journal: Journal, parts: Assembly, status: str) -> None:
    """What can be said of a run however it ended."""
    run, history = Run(journal.folder), parts.state.history
    try:
        if history:
            best = best_epoch(history, parts.experiment.monitor)
            journal.write("tags", values={"best_epoch": str(best + 1), "epochs_done": str(len(history))})
            if journal.artifact(WEIGHTS).exists():  # a search keeps those of its best trials alone
                journal.keep(WEIGHTS)
            # a finished run has drawn its own; trials are seen as metrics alone
            if status != "FINISHED" and (run.folder / "artifacts" / RECORD).exists() and run.record["trial"] is None:
                curves(journal, parts)
        journal.metrics(len(history), {"peak_memory_mb": peak_memory_mb(parts.setup.device)})
    finally:
        try:
            write_summary(run, status)
        finally:
            journal.close(status)


def peak_memory_mb(device: torch.device) -> float:
    """Of the device that trains: CUDA's allocations, else resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return provenance.peak_memory_mb()
