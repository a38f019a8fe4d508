"""Part: the base of everything declared. Frozen, validated, written and read back, changed by dotted name."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from core.spelling import did_you_mean, nearest, numbered, snake


class Mistakes(ValueError):
    """What a user got wrong, all of it at once: one line each, ready to print."""

    def __init__(self, lines: Iterable[str]):
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


AnyPart = TypeVar("AnyPart", bound="Part")


class Part(BaseModel):
    """A declared piece of a setup.

    A field whose type is a Part takes an instance, a class name (its defaults), or a record
    `{"class": name, field: value}`. A name is resolved among the subclasses of the field's type only.
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
            return handler(fields)
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
            raise Mistakes(f"{_dotted(e['loc'])}: {_message(e)}" for e in error.errors()) from None

    def but(self, changes: Mapping[str, Any]) -> Self:
        """This declaration with other values at dotted names, e.g. {"loss": FocalLoss(), "optimizer.lr": 0.2}.

        The one way to change a declaration. A shorter name is set first, so that a part can be replaced and its
        fields set in one call. Raises Mistakes, one line for each wrong name or value.
        """
        draft, wrong = _open(self), []
        for name in sorted(changes, key=lambda name: name.count(".")):
            if not _put(draft, name.split("."), changes[name]):
                wrong.append(f"{name}: no such field{did_you_mean(name, names(self))}")
        try:
            changed = type(self).model_validate(_close(draft))
        except ValidationError as error:
            wrong += [_explain(e, draft, changes, self) for e in error.errors()]
        if wrong:
            raise Mistakes(dict.fromkeys(wrong))
        return changed

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
    found = {} if _is_base(kind) else {kind.__name__: kind}
    for below in kind.__subclasses__():
        found |= choices(below)
    return found


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


def _choose(kind: type[Part], wanted: Any) -> type[Part]:
    if isinstance(wanted, type):
        if issubclass(wanted, kind):
            return wanted
        raise PydanticCustomError("class", "{text}", {"text": f"{wanted.__name__} is no {kind.__name__}"})
    known = choices(kind)
    qualified = {_qualified(part): part for part in known.values()}
    short = str(wanted).rsplit(".", 1)[-1]
    if found := qualified.get(wanted) or known.get(short):
        return found
    text = f"there is no {kind.__name__} named {short}{did_you_mean(short, known)}"
    text += "" if nearest(short, known) else f"; there are {', '.join(known)}"
    raise PydanticCustomError("class", "{text}", {"text": text})


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


def _open(part: Part) -> dict[str, Any]:
    return {"class": type(part)} | {name: getattr(part, name) for name in type(part).model_fields}


def _put(node: dict[str, Any], path: list[str], value: Any) -> bool:
    """Set a value in a draft; False where the path leads nowhere. Unknown last names are left to validation."""
    head, rest = path[0], path[1:]
    if not rest:
        node[head] = value
        return True
    child = node.get(head)
    if isinstance(child, tuple | list) and child:
        child = node[head] = _opened_steps(child)
    if isinstance(child, Part):
        child = node[head] = _open(child)
    elif isinstance(child, str | type) and not isinstance(child, dict):
        child = node[head] = {"class": child}
    elif child is None:
        child = node[head] = {}
    elif isinstance(child, dict) and not isinstance(child, _Steps):
        child = node[head] = dict(child)
    if isinstance(child, _Steps):
        if rest[0] not in child:
            return False
        if len(rest) == 1:
            child[rest[0]] = value
            return True
        return _put(child[rest[0]], rest[1:], value)
    return isinstance(child, dict) and _put(child, rest, value)


class _Steps(dict[str, Any]):
    """An opened tuple of parts in a draft, by step name."""


def _opened_steps(steps: Iterable[Any]) -> Any:
    """Steps by name: of parts, and of class names that the same call puts in place. Other tuples as they are."""
    steps = tuple(steps)
    if not all(isinstance(step, Part | str) for step in steps):
        return steps
    labels = [step.label() if isinstance(step, Part) else snake(step.rsplit(".", 1)[-1]) for step in steps]
    drafts = [_open(step) if isinstance(step, Part) else {"class": step} for step in steps]
    return _Steps(zip(numbered(labels), drafts, strict=True))


def _close(node: Any) -> Any:
    if isinstance(node, _Steps):
        return [_close(item) for item in node.values()]
    return {name: _close(item) for name, item in node.items()} if isinstance(node, dict) else node


def _dotted(location: Iterable[Any]) -> str:
    return ".".join(str(item) for item in location) or "the record"


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "no such field"
    if error["type"] == "missing":
        return "missing"
    text = error["msg"].removeprefix("Input ").removeprefix("Value error, ")
    shown = repr(error["input"]) if isinstance(error["input"], str | int | float | bool | None) else ""
    return text if error["type"] == "class" or not shown else f"{text} (got {shown})"


def _explain(error: Any, draft: Any, changes: Mapping[str, Any], part: Part) -> str:
    """One validation error in the words of the name that the user typed."""
    node, location = draft, []
    for item in error["loc"]:
        if isinstance(node, _Steps) and isinstance(item, int):
            item = list(node)[item]
        elif is_steps(node) and isinstance(item, int):
            item = step_names(node)[item]
        node = node.get(item) if isinstance(node, dict) else getattr(node, str(item), None)
        location.append(item)
    dotted = _dotted(location)
    typed = next((name for name in changes if name == dotted or name.startswith(f"{dotted}.")), dotted)
    if error["type"] != "extra_forbidden":
        return f"{typed}: {_message(error)}"
    return f"{typed}: no such field{did_you_mean(typed, _fields_beside(location, draft) + names(part))}"


def _fields_beside(location: list[Any], draft: Any) -> list[str]:
    """Dotted names of the fields of the part that holds this location, also where the same call put it in place."""
    node = draft
    for item in location[:-1]:
        node = node.get(item) if isinstance(node, dict) else node
    kind = node.get("class") if isinstance(node, dict) else type(node)
    kind = choices(Part).get(kind.rsplit(".", 1)[-1]) if isinstance(kind, str) else kind
    fields = getattr(kind, "model_fields", {})
    return [_dotted([*location[:-1], field]) for field in fields]
