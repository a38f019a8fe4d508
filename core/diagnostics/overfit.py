"""--overfit: the verdict on overfitting one batch, the first test of a new model or loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.experiment import Experiment
from core.training.plans import OVERFIT_STEPS


def reached(history: Sequence[Mapping[str, float]]) -> bool:
    """Whether every image was classified correctly at every step of the last epoch."""
    return bool(history) and history[-1]["train/accuracy"] == 1.0


def verdict(experiment: Experiment, history: Sequence[Mapping[str, float]]) -> list[str]:
    """The verdict as lines of text, with advice if overfitting did not succeed. experiment: as trained."""
    if not history:
        return []
    accuracy, loss = history[-1]["train/accuracy"], history[-1]["train/loss"]
    result = f"accuracy {accuracy:.1%} on one batch of {experiment.batch_size} images, loss {loss:.3g}"
    if reached(history):
        return [f"overfit: reached: {result}; model, loss and optimizer can learn"]
    lines = [f"overfit: not reached: {result} in the last of {len(history)} epochs of {OVERFIT_STEPS} steps"]
    falling = len(history) > 1 and loss < 0.95 * history[-2]["train/loss"]
    if falling:
        lines.append("  the loss is still decreasing: increase --epochs")
    else:
        rate = f"--optimizer.{experiment.optimizer.rate_name()}"
        lines.append(f"  the loss has stopped decreasing: try another {rate} (lr_find suggests one) or schedule")
    if fields := _regularization(experiment):
        lines.append(f"  these fields regularize; set them to 0: {', '.join(fields)}")
    lines.append("  otherwise, check that the loss fits the labels and that no layer is dead")
    lines.append(
        "  --diagnose shows gradients, updates and dead units of each layer; summary shows trainable parameters"
    )
    return lines


def _regularization(experiment: Experiment) -> list[str]:
    """Declared fields that regularize, and so prevent memorization."""
    names = ("dropout", "drop_path", "weight_decay", "label_smoothing")
    fields = experiment.flat().items()
    return [f"--{name}" for name, value in fields if name.rsplit(".", 1)[-1] in names and value]
