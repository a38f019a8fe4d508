"""Labels of settings: the name of the variant, and the values that distinguish settings of the same name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from core.compare.runs import Row

MISSING = "not there"  # the value of a field that a run does not have
Setting = tuple[tuple[str, str], ...]  # (dotted name, value), sorted by name


def settings(folded: Mapping[Setting, Sequence[Row]], by: str | None) -> dict[Setting, str]:
    """Returns a unique label for each setting.

    It consists of the variant, preceded by the experiment if there are several, and of the values that distinguish the
    setting from others of the same name. Values that most of those share are left out.
    """
    if by:
        return {key: f"{by}={dict(key)[by]}" for key in folded}
    several = len({row.experiment for members in folded.values() for row in members}) > 1
    same: dict[str, list[Setting]] = {}
    for key, members in folded.items():
        called = sorted({(row.experiment, row.variant or "base") for row in members})
        name = " = ".join(f"{experiment}/{variant}" if several else variant for experiment, variant in called)
        same.setdefault(name, []).append(key)
    labels = {}
    for name, keys in same.items():
        for key, fields in zip(keys, distinctive_fields([dict(key) for key in keys]), strict=True):
            labels[key] = f"{name} ({fields})" if fields else name
    return labels


def distinctive_fields(declared: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns for each setting the values that distinguish it, such as loss=PolyLoss(epsilon=1.0), epochs=20.

    Values that more than half of the settings share are left out. A field of a part is compared only between settings
    that have the same part.
    """
    every = {name for fields in declared for name in fields}
    names = sorted(name for name in every if len({fields.get(name) for fields in declared}) > 1)
    above = {name: [other for other in names if name.startswith(f"{other}.")] for name in names}
    # a field may have been added after a run was recorded
    values = [{name: fields.get(name, MISSING) for name in names} for fields in declared]
    counts: Counter[tuple[str, ...]] = Counter()
    for own in values:
        for name in names:
            peers = _peers(name, own, above)
            counts.update((peers, (*peers, "=", own[name])))
    return [
        _nested([n for n in names if 2 * counts[(*(p := _peers(n, own, above)), "=", own[n])] <= counts[p]], own)
        for own in values
    ]


def _peers(name: str, own: Mapping[str, str], above: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return (name, *(own[other] for other in above[name]))


def _nested(names: Sequence[str], fields: Mapping[str, str]) -> str:
    """Format fields as text; those of a part are in parentheses: loss=PolyLoss(epsilon=1.0), epochs=20."""
    tops = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    texts = []
    for top in tops:
        below = [f"{n.removeprefix(f'{top}.')}={fields[n]}" for n in names if n.startswith(f"{top}.")]
        texts.append(f"{top}={fields[top]}" + (f"({', '.join(below)})" if below else ""))
    return ", ".join(texts)
