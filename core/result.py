"""What a run leaves at its end: test figures, plots, summary."""

from __future__ import annotations

import torch

from core import distributed, plots, provenance
from core.build import Assembly, held_out
from core.evaluate import Evaluation, evaluate
from core.experiment import Experiment
from core.history import best_epoch
from core.images import Splits
from core.journal import Journal
from core.metrics import by_class
from core.ranks import Ranks
from core.record import RECORD, WEIGHTS, Run
from core.views import averaged
from core.writing import keep_text, write_summary


def judged(experiment: Experiment, splits: Splits, parts: Assembly) -> Evaluation:
    """The one reading of the test split, with the weights that the first process holds; every process takes part."""
    model, setup, context = parts.state.evaluated, parts.setup, parts.context
    distributed.align(model, everything=True)
    batches = held_out(splits.test, setup.device, Ranks(context.rank, context.ranks))
    with setup.precision():
        return evaluate(averaged(model, experiment.tta), setup.loss, batches, setup.normalise, setup.classes)


def test(journal: Journal, experiment: Experiment, splits: Splits, parts: Assembly) -> None:
    """Test the best epoch's weights and put the figures on record."""
    from safetensors.torch import load_file

    parts.state.evaluated.load_state_dict(load_file(journal.artifact(WEIGHTS)))
    result = judged(experiment, splits, parts)
    best = best_epoch(parts.state.history, experiment.select)
    journal.metrics(best + 1, {f"test/{name}": value for name, value in result.metrics.items()})
    table = result.confusion.numpy()
    title = f"test accuracy {result.metrics['accuracy']:.2%} (n = {int(table.sum()):,})"
    plots.confusion_matrix(table, splits.classes, journal.artifact("confusion_matrix.png"), title)
    journal.keep("confusion_matrix.png")
    lines = [",".join(["true \\ predicted", *splits.classes])]
    lines += [",".join([name, *map(str, row)]) for name, row in zip(splits.classes, table.tolist(), strict=True)]
    keep_text(journal, "confusion_matrix.csv", "\n".join(lines) + "\n")
    report = ["class,images,precision,recall,f1"]
    for name, count, row in zip(splits.classes, table.sum(axis=1), by_class(result.confusion).tolist(), strict=True):
        report.append(",".join([name, str(count), *(f"{value:.6f}" for value in row)]))
    keep_text(journal, "per_class.csv", "\n".join(report) + "\n")


def close(journal: Journal, run: Run, experiment: Experiment, parts: Assembly, status: str) -> None:
    """What can be said of a run however it ended."""
    history = parts.state.history
    try:
        if history:
            best = best_epoch(history, experiment.select)
            journal.write("tags", values={"best_epoch": str(best + 1), "epochs_done": str(len(history))})
            if journal.artifact(WEIGHTS).exists():  # a search keeps those of its best trials alone
                journal.keep(WEIGHTS)
            if (run.folder / "artifacts" / RECORD).exists() and run.record["trial"] is None:  # trials: as metrics alone
                plots.learning_curves(history, best, journal.artifact("learning_curves.png"))
                journal.keep("learning_curves.png")
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
