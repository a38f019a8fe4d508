"""Part: the base of everything declared. Frozen, validated, written and read back, changed by dotted name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from core.common.errors import UserError
from core.declare.changes import changed
from core.declare.tree import (
    UNKNOWN,
    Declared,
    _children,
    _choose,
    _encode,
    _is_base,
    _walk,
    _walk_defaults,
    a,
    choices,
    dotted,
    from_text,
    message,
    unknown,
)


class Part(Declared):
    """A declared piece of a setup.

    A field whose type is a Part takes an instance, a class name (its defaults), or a record
    `{"class": name, field: value}`. A name is resolved among the subclasses of the field's type only; a module before
    it decides between classes of the same name, and need not be the module of the class today. Text is taken for any
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
                raise PydanticCustomError("class", "{text}", {"text": f"choose one of {', '.join(choices(cls))}"})
            known = cls.model_fields
            read = {n: from_text(known[n].annotation, v) if n in known else v for n, v in fields.items()}
            return handler(read) if read.keys() <= known.keys() else _explained(cls, read, handler)
        if isinstance(value, Part) and not isinstance(value, cls):
            text = f"{type(value).__name__} is not {a(cls)}; choose one of {', '.join(choices(cls))}"
            raise PydanticCustomError("class", "{text}", {"text": text})
        return handler(value)

    def build(self, context: Any) -> Any:
        """The working object. A pure part builds to itself; what has weights or buffers builds an nn.Module."""
        return self

    def check(self) -> None:
        """Raise ValueError for what the fields alone cannot show. Called before any data are read."""

    def record(self) -> dict[str, Any]:
        """JSON that `read` turns into an equal part."""
        encoded: dict[str, Any] = _encode(self)
        return encoded

    @classmethod
    def read(cls, record: Any) -> Self:
        """The part of a record. Raises UserError for unknown classes and fields."""
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise UserError(f"{dotted(e['loc'])}: {message(e)}" for e in error.errors()) from None

    def but(self, changes: Mapping[str, Any]) -> Self:
        """This declaration with other values at dotted names, e.g. {"loss": FocalLoss(), "optimizer.lr": 0.2}.

        The one way to change a declaration. A shorter name is set first, so that a part can be replaced and its
        fields set in one call. Raises UserError, one line for each wrong name or value.
        """
        return changed(self, changes)

    def flat(self) -> dict[str, Any]:
        """Dotted name -> value of every declared field; a part is its class name, its fields follow."""
        return dict(_walk(self))

    def defaults(self) -> dict[str, Any]:
        """Dotted name -> default of every field in `flat` that has one, in the same form."""
        return dict(_walk_defaults(self))

    def parts(self) -> Iterator[tuple[str, Part]]:
        """(dotted name, part) of everything declared below this part."""
        for name, value in _children(self):
            if isinstance(value, Part):
                yield name, value
                yield from ((f"{name}.{below}", part) for below, part in value.parts())


def _explained(cls: type[Part], fields: dict[str, Any], handler: Any) -> Any:
    """Validate what has unknown fields. Raises ValidationError that says for each what may have been meant."""
    try:
        return handler(fields)
    except ValidationError as error:
        raise ValidationError.from_exception_data(
            cls.__name__, [_detail(cls, each) for each in error.errors()]
        ) from None


def _detail(cls: type[Part], error: Any) -> InitErrorDetails:
    place = error["loc"]
    kind = error["type"]
    if kind == "extra_forbidden" and len(place) == 1:
        kind = PydanticCustomError(UNKNOWN, "{text}", {"text": unknown(cls, str(place[0]))})
    elif kind in ("class", UNKNOWN):
        kind = PydanticCustomError(kind, "{text}", error["ctx"])
    return InitErrorDetails(type=kind, loc=place, input=error["input"], ctx=error.get("ctx", {}))
