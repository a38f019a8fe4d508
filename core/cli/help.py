"""--help: every field with its meaning and default, every part that may take its place."""

from __future__ import annotations

from types import ModuleType
from typing import Any, get_args

from core.cli.main import OF_AN_EXPERIMENT
from core.declare.part import Part
from core.declare.tree import choices, is_steps, optional_part, step_names
from core.diagnostics.lr_curve import RangeTest
from core.launch import Launch
from core.options import OWN
from core.search.options import Search

WIDTH = 34
OF_VERBS = {"search": Search(), "lr_find": RangeTest()}  # verbs with options of their own


def show(module: ModuleType, experiment: Part, command: str) -> None:
    """Print the help of one experiment. experiment: its declaration, perhaps with other parts."""
    print((module.__doc__ or "").strip())
    print(f"\nusage: {command} [verb] [--name value ...]")
    print(f"       {command} --loss FocalLoss --help    the fields of another part\n\nverbs")
    for verb, meaning in OF_AN_EXPERIMENT.items():
        _row(verb, meaning)
    print("\noptions")
    for name, meaning in OWN.items():
        _row(f"--{name}", meaning)
    print("\nthe declaration (recorded as params)")
    fields(experiment)
    print("\nwhere and how it runs (recorded as tags)")
    fields(Launch())
    for verb, part in OF_VERBS.items():
        print(f"\n{verb} alone")
        fields(part)
    if variants := getattr(module, "VARIANTS", {}):
        print("\nvariants")
        for name, changes in variants.items():
            _row(name, ", ".join(f"{key} = {value!r}" for key, value in changes.items()))


def fields(part: Part, prefix: str = "") -> None:
    """Print every field of a part and of the parts below it, with its value and meaning."""
    for name, info in type(part).model_fields.items():
        value = getattr(part, name)
        kinds = _kinds(info.annotation)
        meaning = info.description or ""
        if kinds:
            known = ", ".join(choices(kinds[0]))
            shown = type(value).__name__ if isinstance(value, Part) else _plain(value)
            _row(f"--{prefix}{name} {shown}", f"{meaning}; one of {known}" if len(choices(kinds[0])) > 1 else meaning)
        else:
            _row(f"--{prefix}{name} {_plain(value)}", meaning)
        if value is None and (absent := optional_part(part, name)):
            for field, below in absent.model_fields.items():
                _row(
                    f"--{prefix}{name}.{field} {_plain(below.default)}", f"{below.description}; setting it adds {name}"
                )
        if isinstance(value, Part):
            fields(value, f"{prefix}{name}.")
        elif is_steps(value):
            for label, step in zip(step_names(value), value, strict=True):
                fields(step, f"{prefix}{name}.{label}.")


def _kinds(annotation: Any) -> list[type[Part]]:
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation] if issubclass(annotation, Part) else []
    return [kind for argument in get_args(annotation) for kind in _kinds(argument)]


def _plain(value: Any) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        return ",".join(type(item).__name__ if isinstance(item, Part) else str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row(name: str, meaning: str) -> None:
    print(f"  {name:<{WIDTH}} {meaning}" if len(name) <= WIDTH else f"  {name}\n  {'':<{WIDTH}} {meaning}")
