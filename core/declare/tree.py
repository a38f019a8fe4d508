"""A declaration as a tree: its fields by dotted name, its classes by name, its record."""

from __future__ import annotations

import inspect
import re
from abc import ABC
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from core.common.text import did_you_mean, numbered, snake, suggestion
from core.declare.renamed import CLASSES, hint

MOST_NAMED = 6  # values that a message lists although a similar one is named
UNKNOWN = "unknown_field"  # the type of the error about a field that a class does not have


class Declared(BaseModel):
    """What the functions of this file know of a part; core/declare/part.py completes it."""

    def label(self) -> str:
        """Its name among the steps of a tuple."""
        return snake(type(self).__name__)

    @classmethod
    def hint(cls, name: str) -> str:
        """What to write instead of `name`, which is no class that a field of this type takes; empty if unknown."""
        return ""


AnyPart = TypeVar("AnyPart", bound=Declared)


def choices(kind: type[AnyPart]) -> dict[str, type[AnyPart]]:
    """Class name -> class, for each concrete class that a field of this type takes. A later definition wins."""
    return {found.__name__: found for found in _concrete(kind)}


def _concrete(kind: type[AnyPart]) -> Iterator[type[AnyPart]]:
    """The concrete classes that a field of this type takes, each name as often as it is defined."""
    if not _is_base(kind):
        yield kind
    for below in kind.__subclasses__():
        yield from _concrete(below)


def _is_base(kind: type[Declared]) -> bool:
    return inspect.isabstract(kind) or ABC in kind.__bases__


def names(part: Declared) -> list[str]:
    """Every dotted name that `but` accepts on this declaration, those of parts that are now None included."""
    found = []
    for name, value in _walk(part):
        found.append(name)
        if value is None and (kind := optional_part(part, name)):
            found += [f"{name}.{field}" for field in kind.model_fields]
    return found


def optional_part(part: Declared, name: str) -> type[Declared] | None:
    """The part that a field of the declaration itself may hold instead of None."""
    field = type(part).model_fields.get(name)
    kinds = get_args(field.annotation) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Declared)), None)


def step_names(parts: Iterable[Declared]) -> list[str]:
    """Names of the steps of a tuple: their labels, a repeated one numbered from 2."""
    return numbered([part.label() for part in parts])


def from_text(annotation: Any, value: Any) -> Any:
    """The value that a text means in a field of this type, if validation alone would refuse it."""
    if not isinstance(value, str):
        return value
    arguments, absent = get_args(annotation), value.lower() in ("none", "null")
    if get_origin(annotation) is tuple:
        return () if absent or not value else [item.strip() for item in value.split(",")]
    if get_origin(annotation) is Literal:
        return next((member for member in arguments if str(member) == value), value)
    if absent and type(None) in arguments:
        return None
    kinds = [kind for kind in arguments if kind is not type(None)]
    return from_text(kinds[0], value) if len(kinds) == 1 and get_origin(kinds[0]) is tuple else value


def a(kind: type[Declared]) -> str:
    """The class as a noun: a Loss, an Optimizer."""
    return f"{'an' if kind.__name__[0] in 'AEIO' else 'a'} {kind.__name__}"


def _choose(kind: type[Declared], wanted: Any) -> type[Declared]:
    if isinstance(wanted, type):
        if issubclass(wanted, kind):
            return wanted
        raise PydanticCustomError("class", "{text}", {"text": f"{wanted.__name__} is not {a(kind)}"})
    known = choices(kind)
    if isinstance(wanted, str):
        path = wanted.split(".")
        if named := [part for part in _concrete(kind) if part.__name__ == path[-1]]:
            return max(reversed(named), key=lambda part: _shared(_qualified(part).split("."), path))
    new = CLASSES.get(str(wanted).rpartition(".")[-1])
    hint = f"; it is now called {new}" if new else kind.hint(str(wanted)) or suggestion(str(wanted), known)
    text = f"{wanted} is not {a(kind)}{hint}"
    if str(wanted).startswith("__main__."):
        name = str(wanted).rpartition(".")[2]
        text = f"{name} was defined in a notebook or script; define it in this process, too: its source is code/main.py"
    raise PydanticCustomError("class", "{text}", {"text": text})


def _shared(one: list[str], other: list[str]) -> int:
    """How many names two dotted paths have in common before they part."""
    return sum(1 for _ in takewhile(lambda names: names[0] == names[1], zip(one, other, strict=False)))


def _qualified(kind: type[Declared]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _encode(value: Any) -> Any:
    if isinstance(value, Declared):
        return {"class": _qualified(type(value))} | {
            name: _encode(getattr(value, name)) for name in type(value).model_fields
        }
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {name: _encode(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Declared):
        for name in type(value).model_fields:
            field = getattr(value, name)
            yield name, field
            if is_steps(field):
                yield from ((f"{name}.{step}", item) for step, item in zip(step_names(field), field, strict=True))
    elif isinstance(value, dict):
        yield from value.items()


def _walk(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in _children(part):
        if isinstance(value, Declared):
            yield prefix + name, type(value).__name__
            yield from _walk(value, f"{prefix}{name}.")
        elif is_steps(value):
            yield prefix + name, ", ".join(step_names(value))
        elif isinstance(value, dict):
            yield prefix + name, value
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _walk_defaults(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(part, Declared):
        for name, field in type(part).model_fields.items():
            if not field.is_required():
                yield prefix + name, _shown(field.get_default(call_default_factory=True))
    for name, value in _children(part):
        yield from _walk_defaults(value, f"{prefix}{name}.")


def _shown(value: Any) -> Any:
    if isinstance(value, Declared):
        return type(value).__name__
    return ", ".join(step_names(value)) if is_steps(value) else value


def is_steps(value: Any) -> bool:
    """Whether this is a tuple of parts (such as augment), whose members have names."""
    return isinstance(value, tuple | list) and bool(value) and all(isinstance(item, Declared) for item in value)


def dotted(location: Iterable[Any]) -> str:
    """A location in nested data as a dotted name."""
    return ".".join(str(item) for item in location) or "the record"


def unknown(kind: type[Declared], name: str) -> str:
    """What is said of a field that a class does not have."""
    return f"unknown field{hint(kind, name) or did_you_mean(name, kind.model_fields)}"


def message(error: Any) -> str:
    """One of pydantic's errors in plain words."""
    if error["type"] == "missing":
        return "is required"
    text = error["msg"].removeprefix("Input ").removeprefix("Value error, ").partition(", unable to parse")[0]
    if error["type"] == "greater_than_equal" and error["ctx"]["ge"] == 1 and isinstance(error["ctx"]["ge"], int):
        text = "should be a positive integer"
    shown = repr(error["input"]) if isinstance(error["input"], str | int | float | bool | None) else ""
    if error["type"] in ("class", UNKNOWN) or not shown:
        return str(text)
    known = re.findall(r"'([^']+)'", text) if error["type"] == "literal_error" else []
    close = did_you_mean(str(error["input"]), known)
    if close and len(known) > MOST_NAMED:
        return f"unknown value {shown}{close}"
    return f"{text.replace(chr(39), '') if known else text} (got {shown}){close}"
