"""The contents of a log of another program: parameters, and values of metrics at steps or epochs, and what a store has
beside them."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from core.common.errors import UserError
from core.record.labels import LONGEST_TAG, refusal

MOST_SETTINGS, MOST_VALUES = 2**20, 20_000  # bytes and values of a file of settings


@dataclass(frozen=True)
class Point:
    """A logged value. epoch: None if the log does not have it.  time: ms since 1970, or None."""

    name: str
    step: int
    value: float
    epoch: int | None = None
    time: int | None = None


@dataclass(frozen=True)
class Artifact:
    """A file of a run. name: its path among the artifacts.  bytes: its size.  fetch: writes a copy to a path, or raises
    OSError or UserError."""

    name: str
    bytes: int
    fetch: Callable[[Path], None] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Log:
    """The log of one run.

    params: dotted name -> text.  notes: messages about what was skipped.  labels: what a user said about the run, as in
    core/record/labels.py.  facts: name -> text, of its code and machine.  status: FINISHED, FAILED or KILLED.  start,
    end: ms since 1970, or None.  experiment: its name in a store; empty without one.  parent: place of the run that it
    is nested in, or None.
    """

    kind: str
    params: Mapping[str, str]
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    status: str = "FINISHED"
    start: int | None = None
    end: int | None = None
    experiment: str = ""
    parent: str | None = None
    artifacts: tuple[Artifact, ...] = ()

    @property
    def digest(self) -> str:
        """Hex digest of what it has, but for notes and facts: the same for every address of a store."""
        points = sorted(self.points, key=lambda point: (point.name, point.step))
        bare = replace(self, points=tuple(points), params={}, labels={}, facts={}, notes=())
        return hashlib.sha256(
            repr((bare, sorted(self.params.items()), sorted(self.labels.items()))).encode()
        ).hexdigest()


class Origin(Protocol):
    """Where a run comes from. name: for people.  place: names the run wherever and whenever it is imported.  digest: of
    its contents; it changes when the run grows.  words: the names and ids by which --only may name it."""

    @property
    def name(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def words(self) -> frozenset[str]: ...


Found = tuple[list[tuple[Origin, Log]], list[str]]  # (runs, a message for each that was skipped)


class Source(Protocol):
    """A file, folder or store with runs."""

    @property
    def place(self) -> str: ...

    def read(self, only: Collection[str]) -> Found:
        """Read the runs that these words name; without any, all. Raises UserError or OSError."""
        ...


@dataclass(frozen=True)
class Stored:
    """A run of a store or an export, which has an id there."""

    name: str
    place: str
    digest: str
    words: frozenset[str]


def wanted(words: Collection[str], only: Collection[str]) -> bool:
    """Whether one of the names and ids of a run is asked for."""
    return not only or not set(only).isdisjoint(words)


def labeled(name: str) -> str:
    """A tag of another program as the name of a tag of the user."""
    found = re.sub(r"[^\w.-]", "_", name)[:LONGEST_TAG] or "tag"
    return found if not refusal(found) else f"my_{found.lstrip('.-')}"[:LONGEST_TAG]


def placed(points: Iterable[Point]) -> tuple[list[Point], list[str]]:
    """Returns (one point for each name and step, notes).

    Metrics with one value per epoch get the epoch as their step, counted from 1, as in labbook; others keep their
    steps. If a value was logged twice, for example by a resumed run, the last one counts.
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
    notes = [f"{repeated} values were logged again at the same step; the last one counts"] if repeated else []
    return list(found.values()), notes


def settings(path: Path) -> dict[str, str]:
    """Read settings from a YAML file of Lightning or timm: dotted name -> text; empty if the file does not exist.

    Raises UserError if it is not YAML, or too large.
    """
    import yaml

    class Plain(yaml.SafeLoader):  # type: ignore[misc]
        """Reads tags of Python objects as plain values, and creates no objects."""

    Plain.add_multi_constructor("", lambda loader, suffix, node: _plain(loader, node))
    if not path.is_file():
        return {}
    check_file(path, MOST_SETTINGS)
    try:
        loader = Plain(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if _expanded(node, {}) > MOST_VALUES:
            raise UserError([f"{path}: has more than {MOST_VALUES:,} values once its aliases are expanded"])
        found = None if node is None else loader.construct_document(node)
        if found is not None and not isinstance(found, dict):
            raise UserError([f"{path}: should contain settings, one per line, such as lr: 0.1"])
        return dict(_flat(found or {}))
    except UserError:
        raise
    except RecursionError:
        raise UserError([f"{path}: is nested too deeply, or contains itself"]) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:  # of odd values
        reason = " ".join(str(error).split())[:200]
        raise UserError([f"{path}: is not YAML: {reason}"]) from None


def check_file(path: Path, most: int) -> None:
    """Raises UserError for a FIFO, a device, or a file of more than `most` bytes; OSError if there is none."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError([f"{path}: is not a regular file"])
    if found.st_size > most:
        raise UserError([f"{path}: has {found.st_size / 2**20:,.0f} MB, more than the {most / 2**20:,.0f} MB of a log"])


def json_in(path: Path, most: int) -> Any:
    """What a JSON file holds. Raises as `check_file`, and UserError for what is not JSON."""
    check_file(path, most)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError([f"{path}: is not JSON: {error}"]) from None


def _expanded(node: Any, sizes: dict[int, int]) -> int:
    """The number of values of a YAML node with its aliases expanded, each node visited once. Raises RecursionError for
    a node that contains itself."""
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = -1
        parts = (part for entry in node.value for part in (entry if isinstance(entry, tuple) else (entry,)))
        sizes[id(node)] = 1 + sum(_expanded(part, sizes) for part in parts)
    if sizes[id(node)] < 0:
        raise RecursionError
    return sizes[id(node)]


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
