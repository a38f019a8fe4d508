"""Compute the text of a figure from runs on record, or say which runs are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set

from core.common.errors import UserError
from core.compare.comparison import Comparison, compare
from core.compare.groups import unfinished_reason
from core.compare.runs import FINISHED, SEED, Row
from core.compare.table import in_percent
from core.experiment import Experiment
from core.figures.markers import EACH, MEAN, Marker, Setting

MOST_FIELDS = 4  # differing fields that a message names


class MissingRuns(Exception):
    """Runs that a figure needs are not on record. The message says which, and how to train them."""


def recorded(marker: Marker, read: Callable[[str], Sequence[Row]]) -> Comparison:
    """Returns a comparison of the settings of a marker. read: returns the runs of an experiment. Raises MissingRuns."""
    found: list[Row] = []
    lacking = []
    for setting in marker.settings:
        runs, problem = _latest(setting, marker.metric, read(setting.experiment))
        found += runs
        lacking += [problem] if problem else []
    if lacking:
        raise MissingRuns("\n".join(lacking))
    try:
        return compare(found, marker.metric, baseline=marker.baseline)
    except UserError as mistakes:  # the runs used different data
        raise MissingRuns(f"{marker.settings[0].title}: {mistakes.lines[0].partition(':')[0]}") from None


def _latest(setting: Setting, metric: str, rows: Sequence[Row]) -> tuple[list[Row], str]:
    """(the latest run of each seed, a message if some are missing)."""
    wanted = {name: str(value) for name, value in setting.declaration.flat().items() if name != SEED}
    seeds = [str(seed) for seed in setting.seeds]  # in order
    defaults = _defaults(setting.declaration)
    same = [row for row in rows if row.seed in seeds and _is_declared(row, wanted, defaults)]
    good = [row for row in same if row.status == FINISHED and row.whole and metric in row.metrics]
    found = {row.seed: row for row in sorted(good, key=lambda row: row.id)}
    if len(found) == len(seeds):
        return [found[seed] for seed in seeds], ""
    stopped = {row.seed: row for row in same if row.status != FINISHED and row.seed not in found}
    notes = [
        f"seed {seed}: {unfinished_reason(row)}" for seed, row in sorted(stopped.items(), key=lambda item: int(item[0]))
    ]
    notes += _other_declarations(setting, wanted, defaults, rows)
    problem = f"{setting.title}: {len(found)} of {len(seeds)} seeds on record"
    problem += f" ({'; '.join(notes)})" if notes else ""
    return [], f"{problem}; {setting.command}"


def _is_declared(row: Row, wanted: dict[str, str], defaults: Set[str]) -> bool:
    """Whether a run has this declaration. A field that was added after the run was recorded has its default."""
    lacking = wanted.keys() - row.fields.keys()
    return lacking <= defaults and row.fields.items() <= wanted.items()


def _defaults(declaration: Experiment) -> set[str]:
    """Dotted names of the fields that have their default value."""
    return {
        f"{place}.{name}".removeprefix(".")
        for place, part in (("", declaration), *declaration.parts())
        for name, field in type(part).model_fields.items()
        if getattr(part, name) == field.get_default(call_default_factory=True)
    }


def _other_declarations(setting: Setting, wanted: dict[str, str], defaults: Set[str], rows: Sequence[Row]) -> list[str]:
    """A message about runs of the same variant with another declaration, and the fields that differ, if any exist."""
    others = [
        row
        for row in rows
        if row.variant == setting.variant
        and row.status == FINISHED
        and row.whole
        and not _is_declared(row, wanted, defaults)
    ]
    if not others:
        return []
    differing = Counter(
        name
        for row in others
        for name in {*row.fields, *wanted}
        if row.fields.get(name, wanted.get(name) if name in defaults else None) != wanted.get(name)
    )  # fmt: skip
    names = [name for name, _ in differing.most_common(MOST_FIELDS)]
    names += ["..."] if len(differing) > MOST_FIELDS else []
    what = "runs have another declaration" if len(others) > 1 else "run has another declaration"
    return [f"{len(others)} {what}, which differs in {', '.join(names)}"]


def figure_text(comparison: Comparison, old: str) -> str:
    """Returns the text of a figure, for a comparison with a single setting, in the format of the old text."""
    (group,) = comparison.groups
    mean, _, half = group.summary
    scale = 100 if in_percent(comparison.metric) else 1
    if each := EACH.fullmatch(old):
        values = [group.values[key] for key in sorted(group.values, key=lambda key: int(key[0]))]
        return ", ".join(f"{scale * value:.{len(each['decimals'] or '')}f}" for value in values)
    shape = MEAN.fullmatch(old)
    assert shape is not None
    places = len(shape["decimals"] or "")
    interval = f" +- {scale * half:.{places}f}" if shape["half"] else ""
    n = f" (n = {len(group.values)})" if shape["n"] else ""
    return f"{scale * mean:.{places}f}{shape['unit'] or ''}{interval}{n}"
