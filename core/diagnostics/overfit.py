"""--overfit and --smoke: declarations made small. Overfitting one batch is the first test of a new model or loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.experiment import Experiment
from core.training.assemble import OVERFIT_STEPS


def reached(history: Sequence[Mapping[str, float]]) -> bool:
    """Whether each image was right at every step of the last epoch."""
    return bool(history) and history[-1]["train/accuracy"] == 1.0


def verdict(experiment: Experiment, history: Sequence[Mapping[str, float]]) -> list[str]:
    """What overfitting has shown, and what to look at where it did not succeed. experiment: as it was trained."""
    if not history:
        return []
    accuracy, loss = history[-1]["train/accuracy"], history[-1]["train/loss"]
    told = f"{accuracy:.1%} of one batch of {experiment.batch_size} images, loss {loss:.3g}"
    if reached(history):
        return [f"overfit: reached {told}; model, loss and optimizer can learn"]
    lines = [f"overfit: not reached: {told} in the last of {len(history)} epochs of {OVERFIT_STEPS} steps"]
    falling = len(history) > 1 and loss < 0.95 * history[-2]["train/loss"]
    if falling:
        lines.append("  the loss still falls: give it more --epochs")
    else:
        rate = f"--optimizer.{experiment.optimizer.rate_name()}"
        lines.append(f"  the loss no longer falls: try another {rate} (lr_find suggests one) or schedule")
    if holding := _holding_back(experiment):
        lines.append(f"  these hold it back, set them to 0: {', '.join(holding)}")
    lines.append("  otherwise: does the loss fit the labels, are equal images labeled alike, is a layer dead?")
    lines.append("  --diagnose shows gradients, updates and dead units of each layer; summary shows what is trainable")
    return lines


def _holding_back(experiment: Experiment) -> list[str]:
    """Declared fields whose purpose is to hinder memorizing."""
    hinders = ("dropout", "drop_path", "weight_decay", "label_smoothing")
    fields = experiment.flat().items()
    return [f"--{name}" for name, value in fields if name.rsplit(".", 1)[-1] in hinders and value]
