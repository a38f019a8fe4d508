"""The help of an experiment: the options that are changed most often or, with `--help all`, every option."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic_core import PydanticUndefined

from core.cli.verbs import OF_AN_EXPERIMENT
from core.common.layout import Group, Row, show
from core.declare.part import Part
from core.declare.tree import Declared, choices, is_steps, optional_part, step_names
from core.diagnostics.lr_curve import RangeTest
from core.diagnostics.probe_options import Probe
from core.diagnostics.summary_options import SummaryOptions
from core.experiment import Experiment
from core.launch import Launch
from core.options import OWN, pairs
from core.search.options import Search

# verbs with options of their own
OF_VERBS = {"search": Search(), "lr_find": RangeTest(), "probe": Probe(), "summary": SummaryOptions()}
OFTEN = ("epochs", "batch_size", "model", "augment", "loss", "optimizer", "lr", "device")  # with variant and seeds: ten
REQUIRED = "(required)"
BOUNDS: Mapping[type, str] = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
HUGE = 1e12  # larger bounds are not shown

DECLARATION: Mapping[str, Sequence[str]] = {
    "Data": ("data", "fold", "long_tail", "label_noise", "sampling", "normalize", "match_weights", "limit"),
    "Augmentation": ("augment", "tta"),
    "Model": ("model", "freeze", "lora", "prune", "quantize", "ema", "swa"),
    "Loss and training method": ("loss", "method"),
    "Optimizer and learning-rate schedule": ("optimizer", "schedule"),
    "Batches, gradients and precision": (
        "batch_size", "grad_accum_steps", "clip_grad_norm", "clip_grad_value", "sync_batch_norm", "grad_compress",
        "sync_every", "precision",
        "loss_scale",
    ),
    "Length of training, metrics, early stopping and seed": (
        "epochs", "max_minutes", "stopping", "metrics", "monitor", "seed", "vary",
    ),
}  # fmt: skip
LAUNCH: Mapping[str, Sequence[str]] = {
    "Device and data loading": (
        "root", "device", "threads", "workers", "prefetch", "worker_timeout", "resident",
        "eval_batch_size", "cache_features", "parallel", "microbatches", "compile", "together", "deterministic",
        "deterministic_ranks",
    ),
    "Logging and checkpoints": ("log_every", "checkpoint_every", "snapshot", "mlflow", "also", "notify"),
    "Debugging and profiling": ("smoke", "overfit", "profile", "diagnose", "detect_anomaly"),
}  # fmt: skip


def page(module: ModuleType, experiment: Experiment, command: str, words: Sequence[str], verb: Part | None) -> None:
    """Print the help of an experiment. experiment: its declaration, perhaps with other parts.

    words: the other words of the command line.  verb: the part whose fields are options of the verb, if it has any.
    """
    everything = "all" in words
    given = pairs([word for word in words if word != "all"])[0]
    own = next((name for name, part in OF_VERBS.items() if part is verb or part == verb), None) if verb else None
    text = f"{(module.__doc__ or '').strip()}\n\n  usage: {command} [VERB] [--option value ...]"
    text += "\n         a flag needs no value: --smoke is --smoke true"
    groups = [Group(f"Options of the verb {own}", tuple(fields(verb)))] if verb and own else []
    groups += _all(experiment, own) if everything else [_often(experiment), *_of_words(module, experiment, given)]
    show(text, [*groups, Group("Verbs", _verbs()), Group("Variants", tuple(_variants(module))), _more(command)])


def fields(part: Part | type[Declared], prefix: str = "", end: str = "") -> Iterator[Row]:
    """Yield name, value and meaning of every field of a part and of the parts in it; for a class, with its defaults.

    end: appended to each meaning.
    """
    kind = part if inspect.isclass(part) else type(part)
    for name, info in kind.model_fields.items():
        value = getattr(part, name) if isinstance(part, Part) else info.get_default(call_default_factory=True)
        yield Row(f"--{prefix}{name}", _plain(value), _meaning(info, end))
        if value is None and isinstance(part, Part) and (absent := optional_part(part, name)):
            yield from fields(absent, f"{prefix}{name}.", f"adds {name}")
        if isinstance(value, Part):
            yield from fields(value, f"{prefix}{name}.")
        elif is_steps(value):
            for label, step in zip(step_names(value), value, strict=True):
                yield from fields(step, f"{prefix}{name}.{label}.")


def _own() -> Iterator[Row]:
    values = {"variant": "NAME", "seeds": "N", "folds": "K", "processes": "N", "name": "TEXT", "tags": "NAME=TEXT"}
    for name, meaning in OWN.items():
        yield Row(f"--{name}", values.get(name, "RUN"), meaning)


def _often(experiment: Experiment) -> Group:
    """The ten options that are changed most often."""
    known = {row.name: row for row in fields(experiment)} | {row.name: row for row in fields(Launch())}
    rates = [name for name in known if name.startswith("--optimizer.") and name.endswith(".lr")]
    names = [name for each in OFTEN for name in (rates[:1] if each == "lr" else [f"--{each}"])]
    own = [row for row in _own() if row.name in ("--variant", "--seeds")]
    title = "Options that are changed most often, and their values when they are not given"
    return Group(title, (*own, *(known[name] for name in names if name in known)))


def _all(experiment: Experiment, verb: str | None) -> Iterator[Group]:
    yield Group("What to run", tuple(_own()))
    for part, table in ((experiment, DECLARATION), (Launch(), LAUNCH)):
        rows = list(fields(part))
        for title, names in table.items():
            yield Group(title, tuple(row for row in rows if row.name[2:].split(".")[0] in names))
    for name, own in OF_VERBS.items():
        if name != verb:
            yield Group(f"Options of the verb {name}", tuple(fields(own)))


def _of_words(module: ModuleType, experiment: Experiment, given: Mapping[str, str | None]) -> Iterator[Group]:
    """Yield the fields of each part that the command line, or the variant on it, names."""
    variant = getattr(module, "VARIANTS", {}).get(given.get("variant"), {})
    for name in dict.fromkeys(each.split(".")[0] for each in [*variant, *given]):
        info = Experiment.model_fields.get(name)
        kinds = _kinds(info.annotation) if info else []
        if not kinds:
            continue
        declared = getattr(experiment, name)
        chosen = choices(kinds[0]).get(given.get(name) or "")
        if chosen and not isinstance(declared, chosen):  # required fields of this class are missing
            yield Group(f"Options of --{name} {chosen.__name__}", tuple(fields(chosen, f"{name}.")))
            continue
        rows = [row for row in fields(experiment) if row.name.startswith(f"--{name}.")]
        yield Group(f"Options of --{name} {_plain(declared)}", tuple(rows))


def _verbs() -> tuple[Row, ...]:
    return tuple(Row(verb, "", meaning) for verb, meaning in OF_AN_EXPERIMENT.items())


def _variants(module: ModuleType) -> Iterator[Row]:
    for name, changes in getattr(module, "VARIANTS", {}).items():
        yield Row(name, "", ", ".join(f"{key} = {_short(value)}" for key, value in changes.items()))


def _more(command: str) -> Group:
    rows = (
        Row("--help all", "", "every option: data, model, augmentation, optimizer, device, logging and the others"),
        Row(
            "--model Torchvision --help", "", "the options of another part; the same for --loss, --optimizer and so on"
        ),
    )
    return Group(f"More help: {command}", rows)


def _meaning(info: Any, end: str) -> str:
    """The description of a field, followed by its type, range or choices."""
    details = [*_accepts(info), *([end] if end else [])]
    return (info.description or "") + (f" ({'; '.join(details)})" if details else "")


def _accepts(info: Any) -> Iterator[str]:
    """The type, range or choices of a field."""
    kinds = _kinds(info.annotation)
    if kinds:
        if len(known := choices(kinds[0])) > 1:
            many = get_origin(info.annotation) is tuple
            yield f"{'comma-separated list of' if many else 'choose one of'} {', '.join(known)}"
        return
    plain = [kind for kind in get_args(info.annotation) if kind is not type(None)]
    kind = info.annotation if not plain or get_origin(info.annotation) in (Literal, tuple) else plain[0]
    if get_origin(kind) is Literal:
        yield f"choose one of {', '.join(map(_plain, get_args(kind)))}"
    else:
        bounds = _bounds(info.metadata)
        if kind is int and bounds[:1] == ["at least 1"]:
            yield ", ".join(["positive integer", *bounds[1:]])
        elif bounds or kind is int:
            yield ", ".join([*(["integer"] if kind is int else []), *bounds])


def _bounds(metadata: Iterable[Any]) -> list[str]:
    found = {type(bound): getattr(bound, type(bound).__name__.lower()) for bound in metadata if type(bound) in BOUNDS}
    if Ge in found and Le in found:
        return [f"{found[Ge]:g} to {found[Le]:g}"]
    return [f"{BOUNDS[kind]} {value:g}" for kind, value in found.items() if value < HUGE]


def _kinds(annotation: Any) -> list[type[Part]]:
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation] if issubclass(annotation, Part) else []
    return [kind for argument in get_args(annotation) for kind in _kinds(argument)]


def _plain(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is PydanticUndefined:
        return REQUIRED
    if value is None or value == ():
        return "none"
    if isinstance(value, Part):
        return type(value).__name__
    if isinstance(value, tuple):
        return ",".join(type(item).__name__ if isinstance(item, Part) else str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short(value: Any) -> str:
    """A value of a variant, without the fields that have their defaults."""
    from core.search.space import label

    return label(value)
