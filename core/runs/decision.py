"""The plan of a decision between settings, which is on record before the first seed and cannot change after it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from core.common import paths
from core.common.errors import UserError
from core.common.files import make_folder, write_atomic
from core.compare.sequential import FIRST, MOST, Rule, boundary
from core.compare.table import format_value, in_percent
from core.declare.part import Part
from core.experiment import Experiment
from core.metrics.names import direction
from core.record.ids import new_id
from core.record.provenance import command
from core.runs.recorder import RunInfo
from core.runs.trained import declares

FILE = "plan.json"
VERSION = 1


class Decide(Part):
    """Options of a decision: a group-sequential test (Jennison and Turnbull 1999) with a look after every seed."""

    metric: str = Field("val/accuracy", description="validation metric that decides; test is never read for a decision")
    least: float | None = Field(
        None,
        gt=0,
        description="smallest difference of interest, in points for accuracies; a pair also ends when its difference "
        "is shown to be smaller; none: it ends when a difference is shown, or at the budget",
    )
    budget: int = Field(40, ge=1, le=MOST, description="largest number of seeds of each setting")


@dataclass(frozen=True)
class Setting:
    """A declaration without its seed, with the names of its runs. label: what the user calls it."""

    label: str
    declaration: Experiment
    info: RunInfo

    def at(self, seed: int) -> Experiment:
        """The declaration with this seed."""
        return self.declaration.but({"seed": seed})

    def is_in(self, entry: Mapping[str, Any]) -> bool:
        """Whether an entry of a plan on record is of this setting."""
        seed = self.declaration.seed
        record = {**entry, "declaration": entry["declaration"] | {"seed": seed}}
        return declares(record, self.at(seed))


@dataclass(frozen=True)
class Plan:
    """What is decided, and how.

    id: name of its folder.  rule: when a pair is decided.  seed: the first seed.  settings: each is compared with
    `against`.  command: what continues it.
    """

    id: str
    metric: str
    rule: Rule
    seed: int
    settings: tuple[Setting, ...]
    against: Setting
    command: str

    @property
    def folder(self) -> Path:
        """Where it is on record."""
        return paths.decisions() / self.id

    @property
    def seeds(self) -> range:
        """All seeds that it may train."""
        return range(self.seed, self.seed + self.rule.budget)

    @cached_property
    def better(self) -> int:
        """1 if larger values of the metric are better, -1 if smaller ones are. Raises UserError."""
        found = self.against.declaration.directions.get(self.metric) or direction(self.metric)
        if found is None:
            unknown = "whether larger or smaller values are better is not known; use another metric"
            raise UserError([f"--metric {self.metric}: {unknown}"])
        return found

    def record(self) -> dict[str, Any]:
        """What is written before the first seed."""
        return {
            "labbook_decision": VERSION,
            "metric": self.metric,
            "least": self.rule.least,
            "budget": self.rule.budget,
            "boundary": self.rule.boundary,
            "first_look": FIRST,
            "seed": self.seed,
            "settings": [_entry(one) for one in self.settings],
            "against": _entry(self.against),
            "command": self.command,
        }


def _entry(setting: Setting) -> dict[str, Any]:
    declaration = setting.declaration.record()
    return {"label": setting.label, "experiment": setting.info.experiment, "declaration": declaration}


def plan_of(settings: Sequence[Setting], against: Setting, options: Decide) -> Plan:
    """The plan that is on record for these settings, or a new one, which is put on record.

    Raises UserError if the options cannot be, if a setting is the same as another one, or if another plan for one of
    the pairs is on record: its looks would count for nothing.
    """
    plan = proposed(settings, against, options)
    for folder, entry in on_record():
        if not any(set(plan.seeds) & set(_seeds(entry)) and holds(entry, one, against) for one in settings):
            continue
        if different := differences(entry, plan):
            raise UserError(_refusal(folder, entry, different))
        return _as_recorded(plan, folder.name, entry)
    _write(plan)
    return plan


def plan_of_pair(setting: Setting, against: Setting, given: Mapping[str, Any]) -> Plan:
    """The latest plan on record that has this pair, as a plan for this pair alone, or a new one.

    given: fields of Decide that the user has set; the others are those of the plan on record. Raises as `plan_of`.
    """
    for folder, entry in on_record():
        if against.declaration.seed not in _seeds(entry) or not holds(entry, setting, against):
            continue
        found = proposed([setting], against, Decide(**_options(entry) | dict(given)))
        if different := differences(entry, found, pairs=False):
            raise UserError(_refusal(folder, entry, different))
        return _as_recorded(found, folder.name, entry)
    return plan_of([setting], against, Decide(**given))


def proposed(settings: Sequence[Setting], against: Setting, options: Decide) -> Plan:
    """The plan that these options ask for; its first seed is that of `against`. Raises UserError."""
    wrong = []
    if not options.metric.startswith("val/"):
        wrong.append(f"--metric {options.metric}: a decision reads val/ metrics alone; test is read at the end")
    if options.budget < FIRST:
        wrong.append(f"--budget {options.budget}: the first look is at {FIRST} seeds; use --budget {FIRST} or more")
    first = against.declaration.seed
    kinds = [one.at(first) for one in (*settings, against)]
    for place, kind in enumerate(kinds):
        if kind in kinds[:place]:
            labels = [one.label for one in (*settings, against)]
            same = labels[kinds.index(kind)]
            wrong.append(f"{same} and {labels[place]} are the same declaration: there is nothing to decide")
    if wrong:
        raise UserError(wrong)
    least = options.least / 100 if options.least is not None and in_percent(options.metric) else options.least
    rule = Rule(least, options.budget, boundary(len(settings), options.budget))
    name = new_id(against.info.experiment)
    plan = Plan(name, options.metric, rule, first, tuple(settings), against, command())
    _ = plan.better
    return plan


def on_record() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (folder, plan) of all decisions, the latest first. Raises UserError for one that cannot be read."""
    found = sorted(paths.decisions().glob(f"*/{FILE}"), key=lambda path: path.parent.name.rsplit("-", 3)[1:])
    for path in reversed(found):
        try:
            entry = json.loads(path.read_bytes())
            version = entry["labbook_decision"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError([f"{path}: not a plan of a decision: {error}; restore it, or remove its folder"]) from None
        if version != VERSION:
            raise UserError(
                [f"{path}: it has version {version}, this labbook reads {VERSION}; use the one that wrote it"]
            )
        yield path.parent, entry


def holds(entry: Mapping[str, Any], one: Setting, other: Setting) -> bool:
    """Whether a plan on record has this pair of settings, in either direction."""
    return any(
        (a.is_in(each) and b.is_in(entry["against"]))
        for a, b in ((one, other), (other, one))
        for each in entry["settings"]
    )


def differences(entry: Mapping[str, Any], plan: Plan, pairs: bool = True) -> list[str]:
    """What a plan on record and another one differ in, one line for each. pairs: compare the settings, too."""

    def text(value: object) -> str:
        return format_value(plan.metric, value) if isinstance(value, float) else str(value).lower()

    here = plan.record()
    found = [
        f"--{name}: {text(entry[name])} on record, {text(here[name])} now"
        for name in ("metric", "least", "budget", "seed")
        if entry[name] != here[name]
    ]
    if not pairs:
        return found
    settings = [*plan.settings]
    new = [one.label for one in settings if not any(one.is_in(each) for each in entry["settings"])]
    gone = [each["label"] for each in entry["settings"] if not any(one.is_in(each) for one in settings)]
    found += [f"{label}: not in the plan on record" for label in new]
    found += [f"{label}: in the plan on record, and left out now" for label in gone]
    if not plan.against.is_in(entry["against"]):
        found.append(f"against {entry['against']['label']} on record, against {plan.against.label} now")
    return found


def _refusal(folder: Path, entry: Mapping[str, Any], different: Sequence[str]) -> list[str]:
    """One message, of several lines."""
    end = entry["seed"] + entry["budget"]
    lines = [
        f"{folder.name}: this decision is on record with another plan, which cannot change between looks",
        *different,
        f"to continue it: {entry['command']}",
        f"to start anew, with seeds that no look of it has seen: add --seed {end}",
    ]
    return ["\n    ".join(lines)]


def _as_recorded(plan: Plan, name: str, entry: Mapping[str, Any]) -> Plan:
    """The plan under its name on record, with the boundary that was written down."""
    rule = Rule(plan.rule.least, plan.rule.budget, entry["boundary"])
    return Plan(name, plan.metric, rule, plan.seed, plan.settings, plan.against, entry["command"])


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Decide that a plan on record was made with."""
    least, percent = entry["least"], in_percent(entry["metric"])
    return {
        "metric": entry["metric"],
        "least": 100 * least if least is not None and percent else least,
        "budget": entry["budget"],
    }


def _seeds(entry: Mapping[str, Any]) -> range:
    return range(entry["seed"], entry["seed"] + entry["budget"])


def _write(plan: Plan) -> None:
    try:
        make_folder(plan.folder)
        write_atomic(plan.folder / FILE, json.dumps(plan.record(), indent=1) + "\n")
    except OSError as error:
        raise UserError([f"{plan.folder}: {error.strerror}; without its plan on record, nothing is decided"]) from None
