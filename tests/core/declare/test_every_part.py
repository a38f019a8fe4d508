"""What holds for every part of the package: it refuses bad values by its field, and says where it comes from."""

import math
import re
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt

from core.common.errors import UserError
from core.declare.part import Part
from core.declare.tree import _is_base
from core.diagnostics import lr_curve  # noqa: F401  a part that no declaration holds
from core.experiment import Experiment
from core.launch import Launch
from core.loading.sampling import Weighted
from core.models import SmallCNN
from core.optimizers import SGD, AdamW
from core.search.options import Search
from core.training.assemble import check
from tests.support.loop import BASE


def below(kind: type[Part]) -> Iterator[type[Part]]:
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


# by class, not by name: two parts may share one
PARTS = sorted(
    {kind for kind in below(Part) if kind.__module__.startswith("core.") and not _is_base(kind)},
    key=lambda kind: f"{kind.__module__}.{kind.__name__}",
)
# what says how something runs has no source
CITED = [kind for kind in PARTS if kind not in (Experiment, Launch, Search)]


def name_of(kind: type[Part]) -> str:
    return f"{kind.__module__.removeprefix('core.')}.{kind.__name__}"


def without_none(annotation: Any) -> Any:
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if len(kinds) == 1 else annotation


def just_outside(field: Any) -> list[Any]:
    """The nearest values that a field's bounds shut out."""
    whole = without_none(field.annotation) is int
    found = []
    for bound in field.metadata:
        if isinstance(bound, Gt | Lt):
            found.append(bound.gt if isinstance(bound, Gt) else bound.lt)
        elif isinstance(bound, Ge):
            found.append(bound.ge - 1 if whole else math.nextafter(bound.ge, -math.inf))
        elif isinstance(bound, Le):
            found.append(bound.le + 1 if whole else math.nextafter(bound.le, math.inf))
    return found


def bad_values(field: Any) -> list[Any]:
    kind = without_none(field.annotation)
    if kind in (int, float):
        return [*just_outside(field), "many", math.nan, math.inf]
    if kind is bool or get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Part)):
        return ["nothing of the kind", 7.5]
    return []


def test_all_kinds_of_parts_are_here():
    rooms = {kind.__module__.split(".")[1] for kind in PARTS}
    assert rooms >= {"augment", "loading", "losses", "methods", "models", "optimizers", "schedules"}
    assert len(PARTS) > 50


@pytest.mark.parametrize("kind", PARTS, ids=name_of)
def test_every_field_refuses_what_lies_just_outside_and_is_named(kind):
    for name, field in kind.model_fields.items():
        for value in bad_values(field):
            with pytest.raises(UserError) as caught:
                kind.read({name: value})
            assert any(line.startswith(f"{name}: ") for line in caught.value.lines), (name, value, caught.value.lines)


@pytest.mark.parametrize("kind", PARTS, ids=name_of)
def test_every_number_has_a_bound_and_every_field_a_meaning(kind):
    for name, field in kind.model_fields.items():
        assert field.description, name
        if without_none(field.annotation) in (int, float):
            assert just_outside(field), f"{name} takes any number"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": SGD(nesterov=True, momentum=0.0)}, "optimizer: nesterov requires a momentum"),
        ({"optimizer": AdamW(betas=(0.9, 1.0))}, "optimizer: betas must both be in"),
        ({"model": SmallCNN(widths=())}, "model: widths must contain at least one"),
        ({"model": SmallCNN(widths=(17,), norm="group")}, "model: with norm group, widths must be multiples of 8"),
        ({"sampling": Weighted(weights=(1, -1))}, "sampling: weights must be non-negative"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_a_field_alone_cannot_show_is_refused_by_name_before_data_are_read(changes, message):
    with pytest.raises(UserError) as caught:
        check(BASE.but(changes))
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(message)


@pytest.mark.parametrize("kind", CITED, ids=name_of)
def test_every_part_says_in_its_docstring_where_it_comes_from(kind):
    """A paper, by its year, or the library whose it is."""
    assert re.search(r"\b(19|20)\d\d\b|torch|timm|albumentations", kind.__doc__ or ""), kind.__doc__
