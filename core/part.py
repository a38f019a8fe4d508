"""Part: the base of everything declared. Frozen, validated, written and read back, changed by dotted name."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from core.spelling import did_you_mean, numbered, snake


class Mistakes(ValueError):
    """What a user got wrong, all of it at once: one line each, ready to print."""

    def __init__(self, lines: Iterable[str]):
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


AnyPart = TypeVar("AnyPart", bound="Part")


class Part(BaseModel):
    """A declared piece of a setup.

    A field whose type is a Part takes an instance, a class name (its defaults), or a record
    `{"class": name, field: value}`. A name is resolved among the subclasses of the field's type only; a module before
    it decides between classes of the same name, and need not be where the class stands now. Text is taken for any
    value: "0.1", "none" where a field may be None, "32,64" for a tuple.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="wrap")
    @classmethod
    def _resolve(cls, value: Any, handler: Any) -> Any:
        if isinstance(value, str | type):
            value = {"class": value}
        if isinstance(value, dict):
            chosen = _choose(cls, value["class"]) if "class" in value else cls
            fields = {name: field for name, field in value.items() if name != "class"}
            if chosen is not cls:
                return chosen.model_validate(fields)
            if _is_base(cls):
                raise PydanticCustomError("class", "{text}", {"text": f"name one of {', '.join(choices(cls))}"})
            known = cls.model_fields
            return handler({n: from_text(known[n].annotation, v) if n in known else v for n, v in fields.items()})
        if isinstance(value, Part) and not isinstance(value, cls):
            text = f"{type(value).__name__} is no {cls.__name__}; there are {', '.join(choices(cls))}"
            raise PydanticCustomError("class", "{text}", {"text": text})
        return handler(value)

    def build(self, context: Any) -> Any:
        """The working object. A pure part builds to itself; what has weights or buffers builds an nn.Module."""
        return self

    def check(self) -> None:
        """Raise ValueError for what the fields alone cannot show. Called before any data are read."""

    def label(self) -> str:
        """Its name among the steps of a tuple."""
        return snake(type(self).__name__)

    def record(self) -> dict[str, Any]:
        """JSON that `read` turns into an equal part."""
        return _encode(self)

    @classmethod
    def read(cls, record: Any) -> Self:
        """The part of a record. Raises Mistakes for unknown classes and fields."""
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise Mistakes(f"{dotted(e['loc'])}: {message(e)}" for e in error.errors()) from None

    def but(self, changes: Mapping[str, Any]) -> Self:
        """This declaration with other values at dotted names, e.g. {"loss": FocalLoss(), "optimizer.lr": 0.2}.

        The one way to change a declaration. A shorter name is set first, so that a part can be replaced and its
        fields set in one call. Raises Mistakes, one line for each wrong name or value.
        """
        from core.draft import changed

        return changed(self, changes)

    def flat(self) -> dict[str, Any]:
        """Dotted name -> value of every declared field; a part stands as its class name, its fields below it."""
        return dict(_walk(self))

    def parts(self) -> Iterator[tuple[str, Part]]:
        """(dotted name, part) of everything declared below this part."""
        for name, value in _children(self):
            if isinstance(value, Part):
                yield name, value
                yield from ((f"{name}.{below}", part) for below, part in value.parts())


def choices(kind: type[AnyPart]) -> dict[str, type[AnyPart]]:
    """Class name -> class, for each concrete class that a field of this type takes. A later definition wins."""
    return {found.__name__: found for found in _concrete(kind)}


def _concrete(kind: type[AnyPart]) -> Iterator[type[AnyPart]]:
    """The concrete classes that a field of this type takes, each name as often as it is defined."""
    if not _is_base(kind):
        yield kind
    for below in kind.__subclasses__():
        yield from _concrete(below)


def _is_base(kind: type[Part]) -> bool:
    return inspect.isabstract(kind) or ABC in kind.__bases__


def names(part: Part) -> list[str]:
    """Every dotted name that `but` accepts on this declaration, those of parts that are now None included."""
    found = []
    for name, value in part.flat().items():
        found.append(name)
        if value is None and (kind := optional_part(part, name)):
            found += [f"{name}.{field}" for field in kind.model_fields]
    return found


def optional_part(part: Part, name: str) -> type[Part] | None:
    """The part that a field of the declaration itself may hold instead of None."""
    field = type(part).model_fields.get(name)
    kinds = get_args(field.annotation) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Part)), None)


def step_names(parts: Iterable[Part]) -> list[str]:
    """Names of the steps of a tuple: their labels, a repeated one numbered from 2."""
    return numbered([part.label() for part in parts])


def from_text(annotation: Any, value: Any) -> Any:
    """What a text stands for in a field of this type, where validation alone would not take it."""
    if not isinstance(value, str):
        return value
    arguments, absent = get_args(annotation), value.lower() in ("none", "null")
    if get_origin(annotation) is tuple:
        return () if absent or not value else [item.strip() for item in value.split(",")]
    if get_origin(annotation) is Literal:
        return next((member for member in arguments if str(member) == value), value)
    return None if absent and type(None) in arguments else value


def _choose(kind: type[Part], wanted: Any) -> type[Part]:
    if isinstance(wanted, type):
        if issubclass(wanted, kind):
            return wanted
        raise PydanticCustomError("class", "{text}", {"text": f"{wanted.__name__} is no {kind.__name__}"})
    known = choices(kind)
    if isinstance(wanted, str):
        path = wanted.split(".")
        if named := [part for part in _concrete(kind) if part.__name__ == path[-1]]:
            return max(reversed(named), key=lambda part: _shared(_qualified(part).split("."), path))
    text = f"there is no {kind.__name__} named {wanted}"
    text += did_you_mean(str(wanted), known) or f"; there are {', '.join(known)}"
    raise PydanticCustomError("class", "{text}", {"text": text})


def _shared(one: list[str], other: list[str]) -> int:
    """How many names two dotted paths have in common before they part."""
    return sum(1 for _ in takewhile(lambda names: names[0] == names[1], zip(one, other, strict=False)))


def _qualified(kind: type[Part]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _encode(value: Any) -> Any:
    if isinstance(value, Part):
        return {"class": _qualified(type(value))} | {
            name: _encode(getattr(value, name)) for name in type(value).model_fields
        }
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {name: _encode(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Part):
        for name in type(value).model_fields:
            field = getattr(value, name)
            yield name, field
            if is_steps(field):
                yield from ((f"{name}.{step}", item) for step, item in zip(step_names(field), field, strict=True))
    elif isinstance(value, dict):
        yield from value.items()


def _walk(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in _children(part):
        if isinstance(value, Part):
            yield prefix + name, type(value).__name__
            yield from _walk(value, f"{prefix}{name}.")
        elif is_steps(value):
            yield prefix + name, ", ".join(step_names(value))
        elif isinstance(value, dict):
            yield prefix + name, value
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def is_steps(value: Any) -> bool:
    """Whether this is a tuple of parts (such as augment), whose members have names."""
    return isinstance(value, tuple | list) and bool(value) and all(isinstance(item, Part) for item in value)


def dotted(location: Iterable[Any]) -> str:
    """A location in nested data as a dotted name."""
    return ".".join(str(item) for item in location) or "the record"


def message(error: Any) -> str:
    """One of pydantic's errors in plain words."""
    if error["type"] == "extra_forbidden":
        return "no such field"
    if error["type"] == "missing":
        return "missing"
    text = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    shown = repr(error["input"]) if isinstance(error["input"], str | int | float | bool | None) else ""
    return text if error["type"] == "class" or not shown else f"{text} (got {shown})"
