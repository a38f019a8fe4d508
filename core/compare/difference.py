"""What differs between two runs: declaration, launch, code, packages, machine, data, and results side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.compare.listing import Listed, listed_run
from core.record import sources
from core.record.run import RecordedRun


@dataclass(frozen=True)
class Difference:
    """One difference. section: declaration, launch, code, packages, machine, data, labels or results.  first, second:
    the values in the two runs; None where a run has none."""

    section: str
    name: str
    first: Any
    second: Any


def differences(first: RecordedRun, second: RecordedRun) -> list[Difference]:
    """What differs between two runs. Sources are compared that both have imported; results are those of the end of
    training. Raises UserError if one of the runs is damaged."""
    runs = [_sections(run, listed_run(run)) for run in (first, second)]
    files = [run.pop("sources") for run in runs]
    common = files[0].keys() & files[1].keys()
    for run, own in zip(runs, files, strict=True):
        run["code"] |= {name: own[name] for name in sorted(common)}
    names = {section: list(dict.fromkeys([*runs[0][section], *runs[1][section]])) for section in runs[0]}
    return [
        Difference(section, name, *values)
        for section in names
        for name in names[section]
        if _differ(*(values := [run[section].get(name) for run in runs]))
    ]


def _differ(one: Any, other: Any) -> bool:
    return repr(one) != repr(other)  # two values that are not a number are the same


def _sections(run: RecordedRun, own: Listed) -> dict[str, dict[str, Any]]:
    """Section -> name -> value."""
    record = run.record
    facts: Mapping[str, str] = record["facts"]
    data = dict(record.get("data") or {})
    data["classes"] = ", ".join(data.pop("classes", []))
    weights = (record.get("weights") or {}).get("sha256")
    origin = {"experiment": own.experiment, "variant": own.variant, "kind": own.kind, "parent": own.parent}
    origin |= {"continued": record.get("continued"), "digest of the weights": weights}
    files = (sources.recorded(run.folder / "artifacts") or {"files": {}})["files"]
    return {
        "declaration": {**origin, **own.params},
        "launch": {name: value for name, value in (record.get("launch") or {}).items() if name != "class"},
        "code": _starting(facts, "git."),
        "sources": files,
        "packages": {**_starting(facts, "version."), **_packages(run)},
        "machine": _starting(facts, "hardware."),
        "data": data,
        "labels": {"name": own.name, "note": own.note, "archived": own.archived, **own.tags},
        "results": {"status": own.status, "seconds": own.seconds, **own.metrics},
    }


def _starting(facts: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): text for name, text in facts.items() if name.startswith(prefix)}


def _packages(run: RecordedRun) -> dict[str, str]:
    """Package -> version, of those that were installed."""
    path = run.folder / "artifacts" / "packages.txt"
    lines = path.read_text(errors="replace").split() if path.is_file() else []
    return {name: version for name, _, version in (line.partition("==") for line in lines)}
