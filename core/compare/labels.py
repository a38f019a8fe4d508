"""What people call a setting: its variant, and as little as tells it from the others of that name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from core.compare.runs import Row

Setting = tuple[tuple[str, str], ...]  # (dotted name, value), sorted by name


def settings(folded: Mapping[Setting, Sequence[Row]], by: str | None) -> dict[Setting, str]:
    """A label for each, no two alike: its variant, with the experiment's name where there are several, and the fields
    that set it apart from others of the same name. A value that most of those share goes without saying."""
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
        for key, told in zip(keys, apart([dict(key) for key in keys]), strict=True):
            labels[key] = f"{name} ({told})" if told else name
    return labels


def apart(declared: Sequence[Mapping[str, str]]) -> list[str]:
    """Of each what tells it from the rest: loss=PolyLoss(epsilon=1.0), epochs=20. What more than half have in common
    is not told; a field of a part counts among those alone that have the same part."""
    every = {name for fields in declared for name in fields}
    names = sorted(name for name in every if len({fields.get(name) for fields in declared}) > 1)
    above = {name: [other for other in names if name.startswith(f"{other}.")] for name in names}
    # a field may be younger than a run
    values = [{name: fields.get(name, "not there") for name in names} for fields in declared]
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
    """loss=PolyLoss(epsilon=1.0), epochs=20: the fields of a part within it."""
    tops = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    told = []
    for top in tops:
        below = [f"{n.removeprefix(f'{top}.')}={fields[n]}" for n in names if n.startswith(f"{top}.")]
        told.append(f"{top}={fields[top]}" + (f"({', '.join(below)})" if below else ""))
    return ", ".join(told)
