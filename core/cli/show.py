"""labbook show RUN: a run on one screen: where it comes from, what it declares, its results, and its files."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import console, tell
from core.common.text import duration, few, size
from core.compare.listing import Listed, listed_run
from core.compare.table import format_value
from core.record.removal import size_of
from core.record.run import COMBINED, REPORT, RecordedRun, holds_others
from core.tracking.api import MirrorStatus, mirror_status

SPLITS = ("train", "val", "test")
SPREAD = ("_low", "_high", "_std", "_ci95")  # ends of the names of what the parent of several runs tells of a mean
WIDTH = 100  # columns
PARTS = ("model", "augment", "loss", "method", "optimizer", "optimizer.lr", "schedule", "epochs", "batch_size", "seed")


def main(words: Sequence[str]) -> int:
    """Returns the exit status 0. Raises UserError."""
    parser = VerbParser("show", __doc__)
    parser.add_argument("run", metavar="RUN", help="run; latest and EXPERIMENT/latest are the one begun last")
    parser.add_argument("--json", action="store_true", help="print JSON with all fields, metrics and files")
    given = parser.parse_args(list(words))
    run = RecordedRun.load(given.run)
    found = listed_run(run)
    if given.json:
        print(json.dumps(_as_object(run, found), indent=1, allow_nan=False, default=str))
        return 0
    tell("  ".join(filter(None, [run.id, f"{found.status}{', archived' * found.archived}", found.name])))
    facts = [(name, text) for name, text in _facts(run, found) if text]
    left = max(len(name) for name, _ in facts) + 2
    for name, text in facts:
        lines = [line for part in text.splitlines() for line in _wrapped(part, WIDTH - left)]
        for number, line in enumerate(lines):
            tell(f"{'' if number else name:<{left}}{line}")
    _show_metrics(_metrics(run, found))
    return 0


def _wrapped(line: str, width: int) -> list[str]:
    """The line in parts, of which no path is broken."""
    return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]


def _facts(run: RecordedRun, found: Listed) -> Iterator[tuple[str, str]]:
    """Yield (what, text) of each line; an empty text is left out."""
    record = run.record
    facts, data = record["facts"], record.get("data") or {}
    kind = f", {found.kind}" if found.kind != "run" else ""
    yield "experiment", f"{found.experiment}, variant {found.variant}{kind}"
    yield "note", found.note
    yield "tags", ", ".join(f"{name}={text}" for name, text in found.tags.items())
    begun = (found.started or "").replace("T", " ")
    yield "begun", begun + (f", trained for {duration(found.seconds)}" if found.seconds is not None else "")
    yield "command", facts.get("mlflow.source.name", "")
    yield "code", _code(facts)
    where = [facts.get("hardware.gpu") or facts.get("hardware.cpu", ""), facts.get("precision", "")]
    where += [f"host {facts['hardware.host']}"] if "hardware.host" in facts else []
    yield "machine", ", ".join(filter(None, where))
    counts = ", ".join(f"{split} {data[split]:,}" for split in SPLITS if data.get(split))
    shape = "x".join(map(str, data.get("image_shape", [])))
    classes = f"{len(data['classes'])} classes" if data.get("classes") else ""
    yield "data", "; ".join(filter(None, [found.data, counts, classes, shape and f"images of {shape}"]))
    yield "declares", ", ".join(f"{name} {found.params[name]}" for name in PARTS if name in found.params)
    yield "parameters", f"{found.parameters:,}" if found.parameters is not None else ""
    yield "error", run.tags.get("error", "")
    yield "parent", found.parent or ""
    yield "continues", record.get("continued") or ""
    yield "made of", ", ".join(member["run"] for member in record.get(COMBINED) or ())
    if holds_others(record):
        below = [child.id for child in run.children()]
        yield "runs", f"{len(below):,}: {few(below, 3)}"
    yield "folder", f"{run.folder} ({size(size_of(run))})"
    report = run.folder / "artifacts" / REPORT
    yield "report", str(report) if report.exists() else ""
    yield "MLflow", _mirrored(run)


def _code(facts: Mapping[str, str]) -> str:
    if "git.commit" not in facts:
        return ""
    dirty = ", with uncommitted changes" if facts.get("git.dirty") == "true" else ""
    return f"commit {facts['git.commit'][:12]} of {facts.get('git.branch', 'no branch')}{dirty}"


def _mirrored(run: RecordedRun) -> str:
    try:
        status: MirrorStatus = mirror_status(run.folder)
    except UserError as mistakes:
        return str(mistakes)
    return "complete" if status.complete else status.why


def _metrics(run: RecordedRun, found: Listed) -> Mapping[str, float]:
    """The metrics of the weights that were kept, where they are known, else the last ones."""
    return run.kept_metrics if "best_epoch" in run.tags else found.metrics


def _show_metrics(metrics: Mapping[str, float]) -> None:
    """Print train, val and test metrics side by side."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    pairs = [(split, name) for split, _, name in (key.partition("/") for key in metrics) if split in SPLITS]
    names = dict.fromkeys(name for _, name in pairs if not name.endswith(SPREAD))
    if not names:
        tell("no metrics yet")
        return
    grid = Table(box=SIMPLE_HEAD)
    grid.add_column("metric")
    for split in SPLITS:
        grid.add_column(split, justify="right")
    for name in names:
        grid.add_row(name, *(_cell(metrics, f"{split}/{name}") for split in SPLITS))
    console().print(grid, highlight=False)


def _cell(metrics: Mapping[str, float], name: str) -> str:
    """A metric; of the parent of several runs, the mean and its 95 % interval."""
    values = [metrics[key] for key in (name, f"{name}_ci95") if key in metrics]
    return " +- ".join(format_value(name, value) for value in values)


def _as_object(run: RecordedRun, found: Listed) -> dict[str, Any]:
    record, artifacts = run.record, run.folder / "artifacts"
    files = sorted(path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*") if path.is_file())
    more = {name: record.get(name) for name in ("continued", COMBINED, "weights", "facts", "launch")}
    return found.as_object() | more | {"folder": str(run.folder), "bytes": size_of(run), "files": files}
