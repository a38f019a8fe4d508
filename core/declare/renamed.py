"""How records of older versions are read: the one table of names and defaults that have changed since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WITH_RANGES = ("RandomErasing", "RandomResizedCrop")
CLASSES = {"GeneralisedCrossEntropy": "GeneralizedCrossEntropy", "Penalised": "WeightPenalty"}

# class, by its name today -> field, old -> new
FIELDS: Mapping[str, Mapping[str, str]] = {
    "Experiment": {
        "normalise": "normalize",
        "accumulate": "grad_accum_steps",
        "clip_norm": "clip_grad_norm",
        "clip_value": "clip_grad_value",
        "minutes": "max_minutes",
        "select": "monitor",
    },
    "EarlyStopping": {"metric": "monitor"},
    "Freeze": {"until": "unfreeze_epoch"},
    "Plateau": {"metric": "monitor", "final": "min_lr_ratio"},
    "Step": {"every": "step_size"},
    "Cosine": {"final": "min_lr_ratio"},
    "CosineRestarts": {"first": "t_0", "growth": "t_mult", "final": "min_lr_ratio"},
    "Polynomial": {"final": "min_lr_ratio"},
    "RandAugment": {"n": "num_ops"},
    "Translate": {"share": "fraction"},
    "RandomResizedCrop": {"smallest": "scale", "largest": "scale", "aspect": "ratio"},
    "RandomErasing": {"smallest": "scale", "largest": "scale", "aspect": "ratio"},
    "Torchvision": {"auxiliary": "aux_logits"},
    "ArcFace": {"embedding": "embedding_dim"},
    "Muon": {"iterations": "ns_steps", "adjust_lr": "adjust_lr_fn"},
    "ImageTable": {"several": "multi_label"},
}


# field of Experiment -> what every class that it takes, also one of an experiment's own, inherits from its base
INHERITED: Mapping[str, Mapping[str, str]] = {"model": {"checkpointing": "grad_checkpointing"}}


# version of the record that introduced fields -> class -> field -> the value that stands for what was done before
_BLACK = {"background": "black"}
ADDED: Mapping[int, Mapping[str, Mapping[str, Any]]] = {
    3: {"Ema": {"warmup": False}},
    4: dict.fromkeys(("ImageFolder", "ImageTable", "WebShards", "HuggingFace", "Hdf5"), _BLACK),
}


def renamed(kind: str, place: str = "") -> Mapping[str, str]:
    """Fields of a class, old name -> new. place: the dotted name of the field that holds it."""
    return {**INHERITED.get(place, {}), **FIELDS.get(kind, {})}


def migrated_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record.json of an earlier version, or a study's best.json, with today's names and the defaults of its time."""
    found = dict(record)
    if "declaration" in found:
        names = migrated(found["declaration"]) if record["labbook"] == 1 else found["declaration"]
        found["declaration"] = completed(names, record["labbook"])
    if "several" in (found.get("data") or {}):
        data = dict(found["data"])
        found["data"] = data | {"multi_label": data.pop("several")}
    return found


def completed(value: Any, version: int) -> Any:
    """A declaration that this version of the record holds, with the fields that were added later."""
    if isinstance(value, list):
        return [completed(item, version) for item in value]
    if not isinstance(value, dict):
        return value
    fields = {name: completed(item, version) for name, item in value.items()}
    name = str(fields.get("class", "")).rpartition(".")[2]
    added = [classes.get(name, {}) for since, classes in ADDED.items() if since > version]
    return {field: item for each in added for field, item in each.items()} | fields


def migrated(value: Any, place: str = "") -> Any:
    """A declaration that version 1 recorded (JSON), or a part that a field called `place` holds, with today's names."""
    if isinstance(value, list):
        return [migrated(item) for item in value]
    if not isinstance(value, dict):
        return value
    fields = {name: migrated(item, name) for name, item in value.items()}
    if not isinstance(fields.get("class"), str):
        return fields
    module, dot, old = fields["class"].rpartition(".")
    fields["class"] = module + dot + (name := CLASSES.get(old, old))
    if name in WITH_RANGES and "smallest" in fields:
        fields = _ranges(fields)
    new = renamed(name, place)
    return {new.get(field, field): item for field, item in fields.items()}


def migrated_names(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted name -> value, as version 1 wrote the params of a run and the identity of a study: with today's names.

    The value of a part's own name is its class. Of three numbers that became ranges, the last one is kept.
    """
    found = {}
    for dotted, value in flat.items():
        place, dot, field = dotted.rpartition(".")
        kind = str(flat.get(place, "")) if place else "Experiment"
        new = renamed(CLASSES.get(kind, kind), place).get(field, field)
        found[place + dot + new] = CLASSES.get(value, value) if isinstance(value, str) else value
    return found


def hint(kind: type | None, field: str, prefix: str = "") -> str:
    """The end of a message about a field that a class does not have: what it is called now, or nothing.

    prefix: what precedes the field's name where it is written, such as `--schedule.`
    """
    for name in [base.__name__ for base in kind.__mro__] if kind else ():
        if new := renamed(name, name.lower()).get(field):
            ranges = name in WITH_RANGES
            return f"; it is now part of {prefix}{new}, (min, max)" if ranges else f"; it is now called {prefix}{new}"
    return ""


def _ranges(fields: Mapping[str, Any]) -> dict[str, Any]:
    """smallest, largest and aspect became the ranges scale and ratio."""
    aspect = fields["aspect"]
    ranges = {"scale": [fields["smallest"], fields["largest"]], "ratio": [aspect, 1 / aspect]}
    return {name: item for name, item in fields.items() if name not in ("smallest", "largest", "aspect")} | ranges
