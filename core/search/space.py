"""SPACE: the hyperparameters of a search, as ranges and choices at dotted names of a declaration.

SPACE = {
    "optimizer": Choice(
        SGD(lr=0.1, momentum=0.9),
        AdamW(lr=1e-3),
        within={"SGD": {"lr": Float(0.01, 1, log=True)}, "AdamW": {"lr": Float(1e-4, 1e-2, log=True)}},
    ),
    "loss.label_smoothing": Float(0, 0.2),
    "model.widths": Choice((16, 32), (32, 64)),
}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.common.errors import UserError
from core.common.text import suggestion
from core.declare.part import Part
from core.declare.tree import step_names
from core.experiment import Experiment


@dataclass(frozen=True)
class Float:
    """A real number from low to high, both included. log: sample in the log domain.  step: only low, low + step, ..."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __str__(self) -> str:
        return f"Float({self.low:g}, {self.high:g}{_detail(self)})"

    def holds(self, value: Any) -> bool:
        """Whether a declared value lies in the range."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Int:
    """An integer from low to high, both included. log: sample in the log domain.  step: only low, low + step, ..."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __str__(self) -> str:
        return f"Int({self.low}, {self.high}{_detail(self)})"

    def holds(self, value: Any) -> bool:
        """Whether a declared value lies in the range."""
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == round(value)
        return whole and self.low <= value <= self.high


class Choice:
    """One of several values: numbers, texts, None, parts, or tuples of them.

    Each option is recorded by its label; parts are recorded by the names of their classes if these differ.
    within: label or class name of an option -> the space of its own fields, searched only if the option is chosen.
    """

    def __init__(self, *options: Any, within: Mapping[str, Space] | None = None):
        self.words = [label(option) for option in options]
        classes = {type(option).__name__: option for option in options if isinstance(option, Part)}
        short = len(classes) == len(options)
        self.options = classes if short else dict(zip(self.words, options, strict=True))
        self.repeated = len(self.options) < len(options)
        self.within = dict(within or {})

    def __str__(self) -> str:
        return f"Choice({'; '.join(self.words)})"

    def below(self, chosen: str) -> Iterator[tuple[str, Space]]:
        """Yield (key, space) for each sub-space of the option with this label."""
        for key, space in self.within.items():
            if key in (chosen, type(self.options[chosen]).__name__):
                yield key, space


Dimension = Float | Int | Choice
Space = Mapping[str, Dimension]


def changes(space: Space, suggest: Callable[[str, Dimension], Any]) -> dict[str, Any]:
    """Returns dotted name -> value, for `Experiment.but`.

    suggest: (name, dimension) -> a number, or the label of an option. A dimension of a sub-space has the name of its
    option in parentheses, such as `optimizer.lr (SGD)`: the learning rate of AdamW is another dimension.
    """
    return dict(_walk(space, "", "", suggest))


def dimensions(space: Space) -> dict[str, Dimension]:
    """Returns name -> dimension, including the dimensions of sub-spaces."""
    found: dict[str, Dimension] = {}

    def note(inner: Space, prefix: str, suffix: str) -> None:
        for field, dimension in inner.items():
            found[f"{prefix}{field}{suffix}"] = dimension
            if isinstance(dimension, Choice):
                for key, deeper in dimension.within.items():
                    note(deeper, f"{prefix}{field}.", f"{suffix} ({key})")

    note(space, "", "")
    return found


def declared(space: Space, experiment: Experiment) -> dict[str, Any]:
    """Returns name -> number or label of the declaration itself, for the dimensions that contain its value."""
    found: dict[str, Any] = {}

    def visit(inner: Space, prefix: str, suffix: str) -> None:
        for field, dimension in inner.items():
            value = _value(experiment, prefix + field)
            if isinstance(dimension, Choice):
                name = next((n for n, option in dimension.options.items() if option == value), None)
                exact = name is not None
                if not exact and isinstance(value, Part):
                    name = next((n for n, option in dimension.options.items() if type(option) is type(value)), None)
                below = list(dimension.below(name)) if name is not None and isinstance(value, Part) else []
                if exact or below:  # the same class with other fields counts as its option
                    found[f"{prefix}{field}{suffix}"] = name
                for key, deeper in below:
                    visit(deeper, f"{prefix}{field}.", f"{suffix} ({key})")
            elif dimension.holds(value):
                found[f"{prefix}{field}{suffix}"] = value if isinstance(dimension, Float) else int(value)

    visit(space, "", "")
    return found


def changes_of(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the changes that the parameters of a trial (name -> number or label) describe."""
    return changes(space, lambda name, dimension: params[name])


def check(space: Space, experiment: Experiment) -> None:
    """Check a space around a declaration. Raises UserError with every error in it."""
    if not isinstance(space, Mapping):
        raise UserError([f"SPACE: should be a dictionary, name -> Float, Int or Choice (got a {type(space).__name__})"])
    wrong: list[str] = []
    for name, dimension in dimensions(space).items():
        wrong += [f"SPACE {name}: {line}" for line in _faults(dimension)]
    if not space:
        wrong.append("SPACE: is empty; declare what to search, as in {'optimizer.lr': Float(0.01, 1, log=True)}")
    if not wrong:
        for some in _corners(space):
            try:
                experiment.but(some)
            except UserError as mistakes:
                wrong += [f"SPACE {line}" for line in mistakes.lines]
    if wrong:
        raise UserError(dict.fromkeys(wrong))


def label(value: Any) -> str:
    """Returns a readable name of an option: 0.1, none, CrossEntropy(label_smoothing=0.1), random_crop + mixup."""
    if isinstance(value, Part):
        fields = [f"{name}={label(item)}" for name, item in value if _differs(value, name, item)]
        return type(value).__name__ + (f"({', '.join(fields)})" if fields else "")
    if isinstance(value, tuple | list):
        if value and all(isinstance(item, Part) for item in value):
            plain = [label(item) for item in value]
            return " + ".join(plain)
        return ",".join(map(label, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def text(space: Space) -> dict[str, str]:
    """Returns name -> dimension as text; two spaces are the same if their texts are equal."""
    return {name: str(dimension) for name, dimension in dimensions(space).items()}


def _walk(
    space: Space, prefix: str, suffix: str, suggest: Callable[[str, Dimension], Any]
) -> Iterator[tuple[str, Any]]:
    for field, dimension in space.items():
        value = suggest(f"{prefix}{field}{suffix}", dimension)
        if not isinstance(dimension, Choice):
            yield prefix + field, value
            continue
        yield prefix + field, dimension.options[value]
        for key, deeper in dimension.below(value):
            yield from _walk(deeper, f"{prefix}{field}.", f"{suffix} ({key})", suggest)


def _corners(space: Space) -> Iterator[dict[str, Any]]:
    """Yield changes that together try both ends of each range with each option."""
    most = max([2, *(len(d.options) for d in dimensions(space).values() if isinstance(d, Choice))])
    for turn in range(2 * most):

        def suggest(name: str, dimension: Dimension, turn: int = turn) -> Any:
            if isinstance(dimension, Choice):
                return list(dimension.options)[turn // 2 % len(dimension.options)]
            return dimension.high if turn % 2 else dimension.low

        yield changes(space, suggest)


def _faults(dimension: Dimension) -> Iterator[str]:
    if isinstance(dimension, Choice):
        if not dimension.options:
            yield "has no option"
        if dimension.repeated:
            yield f"has two equal options: {dimension}"
        known = {*dimension.options, *(type(o).__name__ for o in dimension.options.values() if isinstance(o, Part))}
        for key in dimension.within:
            if key not in known:
                yield f"within {key}: unknown option{suggestion(key, sorted(known))}"
        return
    if not isinstance(dimension, Float | Int):
        yield f"should be a Float, an Int or a Choice (got {dimension!r})"
        return
    ends = {"low": dimension.low, "high": dimension.high, "step": dimension.step}
    kind, noun = (int, "an integer") if isinstance(dimension, Int) else (int | float, "a number")
    if bad := [
        name for name, end in ends.items() if not isinstance(end, kind) and not (name == "step" and end is None)
    ]:
        yield from (f"{name} should be {noun} (got {ends[name]!r})" for name in bad)
        return
    if not (math.isfinite(dimension.low) and math.isfinite(dimension.high)):
        yield f"{dimension}: both ends must be finite"
    elif dimension.low >= dimension.high:
        yield f"{dimension} is empty: low must be below high"
    if dimension.log and dimension.low <= 0:
        yield f"{dimension}: low must be above 0 if log is True"
    if dimension.step is not None and dimension.step <= 0:
        yield f"{dimension}: step must be above 0"
    if dimension.log and dimension.step not in (None, 1):
        yield f"{dimension}: log and step cannot be combined"


def _value(experiment: Experiment, name: str) -> Any:
    """The value at a dotted name of a declaration; None if the name does not exist."""
    node: Any = experiment
    for item in name.split("."):
        if isinstance(node, tuple | list):
            node = dict(zip(step_names(node), node, strict=True)).get(item)
        else:
            node = node.get(item) if isinstance(node, dict) else getattr(node, item, None)
    return node


def _differs(part: Part, name: str, value: Any) -> bool:
    field = type(part).model_fields[name]
    return field.is_required() or field.get_default(call_default_factory=True) != value


def _detail(dimension: Float | Int) -> str:
    step = "" if dimension.step in (None, 1) else f", step={dimension.step:g}"
    return (", log" if dimension.log else "") + step
