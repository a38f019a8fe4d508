"""Rename metrics of imported logs: common names become those of labbook."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count

from core.common.errors import UserError

FRACTIONS = ("accuracy", "top5")  # of 1
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation"), "val"),
    "test": "test",
}
_QUANTITIES = {
    "loss": "loss",
    **dict.fromkeys(("acc", "accuracy", "top1", "top_1", "acc1", "acc@1", "prec1", "prec@1"), "accuracy"),
    **dict.fromkeys(("categorical_accuracy", "sparse_categorical_accuracy", "binary_accuracy"), "accuracy"),
    **dict.fromkeys(("multiclassaccuracy", "multiclass_accuracy", "top1_acc", "acc_top1", "top1_accuracy"), "accuracy"),
    **dict.fromkeys(("top5", "top_5", "acc5", "acc@5", "prec5", "prec@5", "top5_acc", "acc_top5"), "top5"),
    **dict.fromkeys(("top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy", "top5_accuracy"), "top5"),
}
_RATE = re.compile(r"(epoch_)?(lr|learning_rate)|lr-[A-Z]\w*|(train|training)[/_](lr|learning_rate)")
_PERCENTS = ("eval_top1", "eval_top5")  # timm's
_LONGEST = 250  # MLflow's limit


@dataclass(frozen=True)
class Name:
    """The new name of a metric. scale: factor for the logged values; 0.01 for percentages."""

    old: str
    new: str
    scale: float = 1.0


def named(olds: Iterable[str], rename: Mapping[str, str], percents: Collection[str]) -> tuple[Name, ...]:
    """Returns a unique name on record for each metric, whatever the order in which they are given.

    If several have the same common name, it goes to the mean over an epoch, then to the one that is spelled like it
    (val_accuracy before val_binary_accuracy), then to the first one in alphabetical order; the others keep their own.

    rename: old -> new, chosen by the user.  percents: old names of metrics in percent. Raises UserError if two are
    renamed to the same name.
    """
    olds = set(olds)
    bare = any(_common(old, False) in ("val/loss", "val/accuracy") and old.startswith("val_") for old in olds)

    def precedence(old: str) -> tuple[bool | str, ...]:
        spelled = re.sub(r"[/_\-. ]+", "/", old.lower()) == _common(old, bare)
        return old not in rename, not old.endswith("_epoch"), not spelled, valid(old) != old, old

    taken: dict[str, str] = {}
    for old in sorted(olds, key=precedence):
        new = rename.get(old) or _common(old, bare) or valid(old)
        if new in taken.values():
            if old in rename:
                raise UserError([f"--rename: several metrics would become {new}"])
            new = _free(valid(old), list(taken.values()))
        taken[old] = new
    return tuple(
        Name(old, new, 0.01 if old in percents or old in _PERCENTS else 1.0) for old, new in sorted(taken.items())
    )


def is_fraction(name: str) -> bool:
    """Whether a name on record is that of an accuracy, which lies in 0..1."""
    split, _, quantity = name.partition("/")
    return split in _SPLITS and quantity in FRACTIONS


def valid(name: str) -> str:
    """Returns the name with characters replaced that MLflow does not accept. Letters of all scripts are accepted."""
    allowed = re.sub(r"[^\w\-. /]", "_", unicodedata.normalize("NFC", name))
    parts = [part.strip(". ") for part in allowed.split("/")]
    return "/".join(part for part in parts if part)[:_LONGEST].rstrip("/. ") or "unnamed"


def valid_names(names: Iterable[str]) -> dict[str, str]:
    """Returns name -> valid name; names that would become the same one are numbered."""
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (valid(name) != name, name)):
        found[name] = _free(valid(name), list(found.values()))
    return found


def _common(old: str, bare: bool) -> str | None:
    """labbook's name for a common metric. bare: whether a name without a split is a training metric, as in Keras."""
    if _RATE.fullmatch(old):
        return "lr"
    if old.lower() in ("train_loss_step", "train/loss_step"):
        return "step/loss"
    words = [word for word in re.split(r"[/_\-. ]+", old.lower().removeprefix("epoch_").removesuffix("_epoch")) if word]
    words = [word for word in words if word not in ("metrics", "metric")]
    if words[:1] == ["training"] and len([word for word in words if word in _SPLITS]) > 1:
        words = words[1:]  # the namespace of Lightning's logger of Neptune
    splits = [word for word in words if word in _SPLITS]
    if not splits and bare:
        splits = ["train"]
    rest = [word for word in words if word not in _SPLITS]
    rest = rest[1:] if rest[:1] == ["epoch"] and len(rest) > 1 else rest
    rest = rest[:1] if len(rest) == 2 and rest[0] == rest[1] else rest
    quantity = _QUANTITIES.get("_".join(rest))
    return f"{_SPLITS[splits[0]]}/{quantity}" if len(splits) == 1 and quantity else None


def _free(name: str, taken: Collection[str]) -> str:
    others = (f"{name[: _LONGEST - 5]}_{number}" for number in count(2))
    return next(other for other in chain([name], others) if other not in taken)
