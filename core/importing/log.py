"""What an old log says, whoever wrote it: parameters, and points that lie at steps or epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.common.errors import UserError


@dataclass(frozen=True)
class Point:
    """A value as it was logged. epoch: None where the log does not say.  time: ms since 1970, or None."""

    name: str
    step: int
    value: float
    epoch: int | None = None
    time: int | None = None


@dataclass(frozen=True)
class Log:
    """One run's log. params: dotted name -> text.  notes: what was left out, for people."""

    kind: str
    params: Mapping[str, str]
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()


def placed(points: Iterable[Point]) -> tuple[list[Point], list[str]]:
    """(one point for each name and step, notes). Metrics of epochs get the epoch as their step, counted from 1 as
    labbook does; those with several values in an epoch keep their steps.

    Of what was logged twice, as by a run that was resumed, the last counts.
    """
    given = list(points)
    single = {(p.name, p.step, p.epoch): p for p in given}
    in_epoch = Counter((p.name, p.epoch) for p in single.values())
    by_step = {name for (name, epoch), count in in_epoch.items() if epoch is None or count > 1}
    first = min((p.epoch for p in single.values() if p.epoch is not None), default=1)
    from_zero = int(first == 0)
    found: dict[tuple[str, int], Point] = {}
    for point in single.values():
        if point.epoch is not None and point.name not in by_step and not point.name.endswith("_step"):
            point = replace(point, step=point.epoch + from_zero)
        found[point.name, point.step] = point
    repeated = len(given) - len(found)
    return list(found.values()), [f"logged again at the same step: {repeated}; the last counts"] if repeated else []


def settings(path: Path) -> dict[str, str]:
    """Dotted name -> text, of a YAML file as Lightning and timm leave one; empty without one. Raises UserError."""
    import yaml

    class Plain(yaml.SafeLoader):  # type: ignore[misc]
        """Takes Python's own objects as the text that they were written with, and makes none."""

    Plain.add_multi_constructor("", lambda loader, suffix, node: _plain(loader, node))
    if not path.is_file():
        return {}
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Plain)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError([f"{path}: not YAML: {reason}"]) from None
    if found is not None and not isinstance(found, dict):
        raise UserError([f"{path}: should name settings, one a line, such as lr: 0.1"])
    return dict(_flat(found or {}))


def _plain(loader: Any, node: Any) -> Any:
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return node.value or node.tag.rpartition(":")[2]
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


def _flat(found: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in found.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
