"""Rename settings of imported runs: common names become those of the fields of labbook, so that `labbook compare`,
`diff` and `runs` show them together with those of its own runs. Values stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping

from core.importing.metric_names import valid_names

SEED = "seed"
_NAMES = {  # field -> names of it, of which the first that a log has counts
    SEED: ("seed", "random_seed", "manual_seed", "seed_everything"),
    "epochs": ("epochs", "max_epochs", "num_epochs", "n_epochs", "num_train_epochs", "trainer.max_epochs"),
    "batch_size": ("batch_size", "batchsize", "bs", "data.batch_size", "datamodule.batch_size"),
    "optimizer": ("optimizer", "opt", "optim", "optimizer_name"),
    "optimizer.lr": ("optimizer.lr", "lr", "learning_rate", "base_lr", "optim.lr", "optimizer.learning_rate"),
    "optimizer.weight_decay": ("optimizer.weight_decay", "weight_decay", "wd", "optim.weight_decay"),
    "model": ("model", "arch", "architecture", "model_name", "backbone"),
}
_GROUPS = re.compile(r"^(training[./])?(params|parameters|hparams|hyper_?params|hyper_?parameters|config|cfg|args)[./]")
_EMPTY = ("", "none", "null")


def named(params: Mapping[str, str]) -> dict[str, str]:
    """Returns old name -> unique name on record of each setting. The names are accepted by MLflow."""
    spelled: dict[str, str] = {}
    for name in sorted(params, reverse=True):
        if params[name].strip().lower() not in _EMPTY:
            spelled[_GROUPS.sub("", name.lower().replace("-", "_").replace(" ", "_")).replace("/", ".")] = name
    chosen = {
        old: field
        for field, names in _NAMES.items()
        if (old := next((spelled[name] for name in names if name in spelled), None)) is not None
    }
    others = valid_names([name for name in params if name not in chosen])
    taken = set(chosen.values())
    return chosen | {old: f"{new}_2" if new in taken else new for old, new in others.items()}
