"""How a declaration is changed: opened into a draft, set at dotted names, validated as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from core.common.errors import UserError
from core.common.text import did_you_mean, numbered, snake, suggestion
from core.declare.renamed import hint
from core.declare.tree import (
    UNKNOWN,
    AnyPart,
    Declared,
    choices,
    dotted,
    from_text,
    is_steps,
    message,
    names,
    step_names,
)

MOST_NAMED = 12  # fields that a message lists


def changed(part: AnyPart, changes: Mapping[str, Any], noun: str = "field", mark: str = "") -> AnyPart:
    """See but of Part. noun, mark: what a field is called in messages, and what precedes its name (option, --)."""
    draft: dict[str, Any] = {"class": type(part)} | {name: getattr(part, name) for name in type(part).model_fields}
    wrong = []
    for name in sorted(changes, key=lambda name: name.count(".")):
        if not _put(draft, name.split("."), changes[name]):
            wrong.append(f"{mark}{name}: unknown {noun}{did_you_mean(name, names(part), mark)}")
    try:
        result = type(part).model_validate(_close(draft))
    except ValidationError as error:
        wrong += [_explain(e, draft, changes, part, noun, mark) for e in error.errors()]
    if wrong:
        raise UserError(dict.fromkeys(wrong))
    return result


class _Steps(dict[str, Any]):
    """An opened tuple of parts in a draft, by step name."""


def _open(value: Any, annotation: Any) -> dict[str, Any] | None:
    """A draft of a part, of its class or its record; None for what has no fields. annotation: of the field it is in."""
    if isinstance(value, Declared):
        return {"class": type(value)} | {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, str):  # a loss and a sampling may have one name: it is that of this field's kind
        return {"class": next((known[value] for known in map(choices, _kinds(annotation)) if value in known), value)}
    if isinstance(value, type):
        return {"class": value}
    return type(value)(value) if isinstance(value, dict) else None


def _put(node: dict[str, Any], path: list[str], value: Any) -> bool:
    """Set a value in a draft; False where the path leads nowhere. Unknown last names are left to validation."""
    head, rest = path[0], path[1:]
    if head == "class" or (isinstance(node, _Steps) and head not in node):
        return False
    annotation = _annotation(node, head)
    if not rest:
        many = isinstance(value, str) and get_origin(annotation) is tuple and _kinds(annotation)
        steps = _opened_steps(from_text(annotation, value), annotation) if many else None
        node[head] = value if steps is None else steps
        return True
    child = node.get(head, _default(node, head))
    if isinstance(child, tuple | list):
        opened: dict[str, Any] | None = _opened_steps(child, annotation)
    elif isinstance(child, Declared | dict) or _kinds(annotation):
        opened = {} if child is None else _open(child, annotation)
    else:
        return False
    if opened is None:
        return False
    node[head] = opened
    return _put(opened, rest, value)


def _opened_steps(steps: Iterable[Any], annotation: Any) -> _Steps | None:
    """Steps by name: parts, and class names and records that the same call puts in place. None for other tuples."""
    drafts = [_open(step, annotation) for step in steps]
    labels = [
        step.label() if isinstance(step, Declared) else snake(_class_name((draft or {}).get("class")))
        for step, draft in zip(steps, drafts, strict=True)
    ]
    return None if None in drafts else _Steps(zip(numbered(labels), drafts, strict=True))


def _close(node: Any) -> Any:
    if isinstance(node, _Steps):
        return [_close(item) for item in node.values()]
    return {name: _close(item) for name, item in node.items()} if isinstance(node, dict) else node


def _class_of(node: Any) -> type[Declared] | None:
    """The class of a draft, or None if it is unknown."""
    kind = node.get("class") if isinstance(node, dict) else type(node)
    kind = choices(Declared).get(kind.rsplit(".", 1)[-1]) if isinstance(kind, str) else kind
    return kind if isinstance(kind, type) and issubclass(kind, Declared) else None


def _annotation(node: dict[str, Any], name: str) -> Any:
    """The type of a field of a draft; Declared, the widest, if it is unknown."""
    kind = _class_of(node)
    return kind.model_fields[name].annotation if kind and name in kind.model_fields else Declared


def _default(node: dict[str, Any], name: str) -> Any:
    """What a field of a draft is while nothing is set: the part or steps that its class declares, or None."""
    kind = _class_of(node)
    default = kind.model_fields[name].default if kind and name in kind.model_fields else None
    return default if isinstance(default, Declared) or is_steps(default) else None


def _kinds(annotation: Any) -> list[type[Declared]]:
    """The kinds of part that a field of this type holds."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if not get_args(kind)]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Declared)]


def _class_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).rsplit(".", 1)[-1]


def _explain(error: Any, draft: Any, changes: Mapping[str, Any], part: Declared, noun: str, mark: str) -> str:
    """One validation error in the words of the name that the user typed."""
    location = _location(error, draft)
    place = dotted(location)
    below = (name for name in changes if name.startswith(f"{place}."))
    typed = place if place in changes else next(below, place)
    if error["type"] != UNKNOWN:
        return f"{mark}{typed}: {message(error)}"
    kind = _holder(location, draft)
    beside = _fields_beside(location, kind)
    prefix = mark + place.removesuffix(str(location[-1]))
    end = hint(kind, str(location[-1]), prefix) or did_you_mean(typed, beside + names(part), mark)
    return f"{mark}{typed}: unknown {noun}{end or suggestion(typed, beside if len(beside) <= MOST_NAMED else [], mark)}"


def _location(error: Any, draft: Any) -> list[Any]:
    """Where an error is, steps by name."""
    node, location = draft, []
    for item in error["loc"]:
        if isinstance(node, _Steps) and isinstance(item, int):
            item = list(node)[item]
        elif is_steps(node) and isinstance(item, int):
            item = step_names(node)[item]
        if isinstance(item, int):  # of what was typed as one value, such as 0.9,0.999
            break
        node = node.get(item) if isinstance(node, dict) else getattr(node, str(item), None)
        location.append(item)
    # a step of no known class goes by no name
    return location[:-1] if error["type"] == "class" and isinstance(error["loc"][-1], int) else location


def _holder(location: list[Any], draft: Any) -> type[Declared] | None:
    """The class of the part that holds this location, also where the same call puts it in place."""
    node, kind = draft, _class_of(draft)
    for item in location[:-1]:
        fields = kind.model_fields if kind else {}
        declared = _kinds(fields[item].annotation) if item in fields else []
        node = node.get(item) if isinstance(node, dict) else node
        kind = _class_of(node) or next(iter(declared), None)
    return kind


def _fields_beside(location: list[Any], kind: type[Declared] | None) -> list[str]:
    """Dotted names of the fields of the class that holds this location, and of the parts that are its defaults."""
    found: list[str] = []
    for field, info in kind.model_fields.items() if kind else ():
        below = names(info.default) if isinstance(info.default, Declared) else []
        found += [field, *(f"{field}.{name}" for name in below)]
    return [dotted([*location[:-1], field]) for field in found]
