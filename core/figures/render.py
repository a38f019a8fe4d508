"""From runs on record to the text of a figure, or to what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set

from core.common.errors import UserError
from core.compare.groups import Comparison, compare, why
from core.compare.runs import FINISHED, SEED, Row
from core.compare.table import is_share
from core.experiment import Experiment
from core.figures.markers import EACH, MEAN, Marker, Setting

MOST_FIELDS = 4  # that are named of another declaration


class Missing(Exception):
    """A figure cannot be told from the record: which runs it lacks, and how to get them."""


def recorded(marker: Marker, read: Callable[[str], Sequence[Row]]) -> Comparison:
    """The settings of a marker, from the runs that count. read: an experiment's runs. Raises Missing."""
    found: list[Row] = []
    lacking = []
    for setting in marker.settings:
        counted, lack = _counted(setting, marker.metric, read(setting.experiment))
        found += counted
        lacking += [lack] if lack else []
    if lacking:
        raise Missing("\n".join(lacking))
    try:
        return compare(found, marker.metric, baseline=marker.baseline)
    except UserError as mistakes:  # of several sets of data
        raise Missing(f"{marker.settings[0].title}: {mistakes.lines[0].partition(':')[0]}") from None


def _counted(setting: Setting, metric: str, rows: Sequence[Row]) -> tuple[list[Row], str]:
    """(the run of each seed, the latest where there are several; what is lacking)."""
    wanted = {name: str(value) for name, value in setting.declaration.flat().items() if name != SEED}
    seeds = [str(seed) for seed in setting.seeds]  # in order
    unsaid = _defaults(setting.declaration)
    same = [row for row in rows if row.seed in seeds and _is_declared(row, wanted, unsaid)]
    good = [row for row in same if row.status == FINISHED and row.whole and metric in row.metrics]
    found = {row.seed: row for row in sorted(good, key=lambda row: row.id)}
    if len(found) == len(seeds):
        return [found[seed] for seed in seeds], ""
    stopped = {row.seed: row for row in same if row.status != FINISHED and row.seed not in found}
    notes = [f"seed {seed}: {why(row)}" for seed, row in sorted(stopped.items(), key=lambda item: int(item[0]))]
    notes += _declared_otherwise(setting, wanted, unsaid, rows)
    told = f"{setting.title}: {len(found)} of {len(seeds)} seeds on record"
    told += f" ({'; '.join(notes)})" if notes else ""
    return [], f"{told}; {setting.command}"


def _is_declared(row: Row, wanted: dict[str, str], unsaid: Set[str]) -> bool:
    """Whether it is of this declaration. A field that is younger than the run is as it was by default."""
    lacking = wanted.keys() - row.fields.keys()
    return lacking <= unsaid and row.fields.items() <= wanted.items()


def _defaults(declaration: Experiment) -> set[str]:
    """Dotted names of what is declared as it is by default."""
    return {
        f"{place}.{name}".removeprefix(".")
        for place, part in (("", declaration), *declaration.parts())
        for name, field in type(part).model_fields.items()
        if getattr(part, name) == field.get_default(call_default_factory=True)
    }


def _declared_otherwise(setting: Setting, wanted: dict[str, str], unsaid: Set[str], rows: Sequence[Row]) -> list[str]:
    """That runs of another declaration exist, older ones perhaps, and in what they differ; nothing where none do."""
    others = [
        row
        for row in rows
        if row.variant == setting.variant
        and row.status == FINISHED
        and row.whole
        and not _is_declared(row, wanted, unsaid)
    ]
    if not others:
        return []
    differing = Counter(
        name
        for row in others
        for name in {*row.fields, *wanted}
        if row.fields.get(name, wanted.get(name) if name in unsaid else None) != wanted.get(name)
    )  # fmt: skip
    names = [name for name, _ in differing.most_common(MOST_FIELDS)]
    names += ["..."] if len(differing) > MOST_FIELDS else []
    plural = "runs are" if len(others) > 1 else "run is"
    return [f"{len(others)} {plural} of another declaration and do not count: {', '.join(names)}"]


def told(found: Comparison, old: str) -> str:
    """The figure of a comparison's one setting, in the shape of the old text."""
    (group,) = found.groups
    mean, _, half = group.summary
    scale = 100 if is_share(found.metric) else 1
    if each := EACH.fullmatch(old):
        values = [group.values[key] for key in sorted(group.values, key=lambda key: int(key[0]))]
        return ", ".join(f"{scale * value:.{len(each['decimals'] or '')}f}" for value in values)
    shape = MEAN.fullmatch(old)
    assert shape is not None
    places = len(shape["decimals"] or "")
    interval = f" +- {scale * half:.{places}f}" if shape["half"] else ""
    n = f" (n = {len(group.values)})" if shape["n"] else ""
    return f"{scale * mean:.{places}f}{shape['unit'] or ''}{interval}{n}"
