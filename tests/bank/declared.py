"""The declarations of the bank: one of digits, and 63 points of a space around it, drawn by key."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from core import randomness as K
from core.augment import Cutout, RandomCrop
from core.declare.part import Part
from core.experiment import Experiment
from core.losses import CrossEntropy
from core.models import SmallCNN
from core.optimizers import SGD, AdamW
from core.schedules import Constant, Cosine, OneCycle
from core.search.space import Choice, Dimension, Float, changes_of, declared, label
from core.search.space import changes as walk
from data import Digits

COUNT, SEEDS, EPOCHS = 64, 16, 27

# Few training images and many for val, so that declarations differ by more than the resolution of an accuracy.
BASE = Experiment(
    data=Digits(val_fraction=0.75),
    model=SmallCNN(widths=(24, 48)),
    augment=(RandomCrop(padding=1),),
    loss=CrossEntropy(label_smoothing=0.1),
    optimizer=SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    schedule=Cosine(warmup_epochs=1),
    monitor="val/accuracy",
    epochs=EPOCHS,
    batch_size=32,
)
SPACE: dict[str, Dimension] = {
    "optimizer": Choice(
        SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        AdamW(lr=2e-3, weight_decay=0.05),
        within={
            "SGD": {"lr": Float(0.01, 1.0, log=True), "weight_decay": Float(1e-5, 1e-2, log=True)},
            "AdamW": {"lr": Float(2e-4, 2e-2, log=True), "weight_decay": Float(1e-3, 1.0, log=True)},
        },
    ),
    "loss.label_smoothing": Float(0.0, 0.2),
    "model.widths": Choice((12, 24), (24, 48)),
    "augment": Choice((), (RandomCrop(padding=1),), (RandomCrop(padding=1), Cutout(size=2))),
    "batch_size": Choice(16, 32, 64),
    "schedule": Choice(Constant(), Cosine(warmup_epochs=1), OneCycle()),
}


def parameters() -> list[dict[str, Any]]:
    """For each declaration, name of a dimension -> number or label."""
    return [declared(SPACE, BASE), *(_drawn(number) for number in range(1, COUNT))]


def declarations() -> list[Experiment]:
    """The declarations, in the order of `parameters`, with seed 0."""
    return [BASE.but(changes_of(SPACE, params)) for params in parameters()]


def digest(experiments: list[Experiment]) -> str:
    """Of what is declared, not of what was measured: results differ between machines in their last bits. Fields that
    have their defaults are left out, because new ones are added to experiments."""
    text = json.dumps([_chosen(experiment) for experiment in experiments], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _chosen(value: Any) -> Any:
    """What a part declares, as JSON: its class, and the fields that differ from their defaults."""
    if isinstance(value, Part):
        fields = type(value).model_fields.items()
        chosen = {name: getattr(value, name) for name, field in fields if getattr(value, name) != field.default}
        return {"class": type(value).__name__} | {name: _chosen(own) for name, own in chosen.items()}
    return [_chosen(one) for one in value] if isinstance(value, tuple) else value


def _drawn(number: int) -> dict[str, Any]:
    """Parameters drawn evenly from the space."""
    found: dict[str, Any] = {}

    def suggest(name: str, dimension: Dimension) -> Any:
        chance = float(K.uniform(K.key(number, "bank"), name)[0])
        if isinstance(dimension, Choice):
            found[name] = list(dimension.options)[int(chance * len(dimension.options))]
        else:
            assert isinstance(dimension, Float)
            low, high = dimension.low, dimension.high
            drawn = low * (high / low) ** chance if dimension.log else low + (high - low) * chance
            found[name] = float(f"{drawn:.3g}")  # the same number on every machine
        return found[name]

    walk(SPACE, suggest)
    return found


__all__ = ["BASE", "COUNT", "EPOCHS", "SEEDS", "SPACE", "declarations", "digest", "label", "parameters"]
