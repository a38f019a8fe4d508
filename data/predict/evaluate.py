"""labbook evaluate RUN ...: the metrics of runs with intervals, on their own test images or on another labeled set.

Without --root, the answers on record are used, and no image is read. With it, the images are read as those of the run,
and classes are matched by name: a set may have some of the run's classes, or others that --map translates. Images of
classes that the run does not know are left out, with a message. What was measured is recorded under the run, in
evaluations/.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from core import randomness
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.statistics import wilson
from core.common.terminal import console, tell
from core.inference.answers import ask, log_answers, read
from core.inference.network import network_of
from core.loading.images import Images, Splits
from core.metrics.answers import Answers
from core.metrics.by_name import compute
from core.record.journal import Journal, log_text
from core.record.lock import locked
from core.runs.trained import Run, load
from data.kinds import declared, divided, kind_of

METRICS = ("accuracy", "balanced_accuracy", "f1", "nll", "ece")
RESAMPLES = 500  # of the bootstrap


def main(words: Sequence[str]) -> int:
    """Exit status 0. Raises UserError."""
    parser = VerbParser("evaluate", __doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="finished run")
    parser.add_argument("--root", type=Path, metavar="PATH", help="another labeled set: folder, archive, table, ...")
    parser.add_argument("--data", metavar="CLASS", help="how PATH is read, with options --data.NAME")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), help="default: test, of another set all")
    parser.add_argument("--map", type=Path, metavar="FILE", help="CSV file of class of the set, class of the run")
    parser.add_argument("--metric", action="append", metavar="NAME", help=f"default: {', '.join(METRICS)}")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or mps; auto: the fastest one available")
    rest, options = divided(words)
    given = parser.parse_args(rest)
    runs = [load(name) for name in given.run]
    if runs[0].multi_label:
        raise UserError([f"{runs[0].id}: multi-label runs cannot be evaluated yet; see labbook metric"])
    metrics = given.metric or METRICS
    if given.root is None:
        if given.data or given.map or given.split in ("train", "all"):
            raise UserError(["--data, --map and --split train or all need --root PATH"])
        for run in runs:
            _show(run.id, read(run, given.split or "test"), metrics)
        return 0
    translation = _translation(given.map)
    for run in runs:
        size = run.record["data"]["image_shape"][0]
        data = declared(given.data or kind_of(given.root), {"size": str(size), **options})
        splits = data.load(given.root)
        chosen = _matched(_chosen(splits, given.split or "all"), splits, run, translation)
        answers = ask(network_of(run, given.device), chosen, splits.name, tuple(run.record["data"]["classes"]))
        values = _show(f"{run.id} on {splits.name}", answers, metrics)
        _record(run, answers, splits, given.split or "all", values)
    return 0


def _chosen(splits: Splits, split: str) -> Images:
    if split != "all":
        images: Images = getattr(splits, split)
        return images
    every = (splits.train, splits.val, splits.test)
    rows, targets = (np.concatenate([getattr(part, name) for part in every]) for name in ("rows", "targets"))
    return replace(splits.train, rows=rows, targets=targets)


def _translation(path: Path | None) -> dict[str, str]:
    """Class of the set -> class of the run. Raises UserError."""
    if path is None:
        return {}
    try:
        with path.open(newline="") as stream:
            return {row[0].strip(): row[1].strip() for row in csv.reader(stream) if len(row) > 1}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError([f"--map {path}: {error}"]) from None


def _matched(images: Images, splits: Splits, run: Run, translation: Mapping[str, str]) -> Images:
    """The images of classes that the run knows, with its targets. Raises UserError if there are none."""
    known = {name: label for label, name in enumerate(run.record["data"]["classes"])}
    now = np.array([known.get(translation.get(name, name), -1) for name in splits.classes])
    targets = now[images.targets]
    unknown = [name for name, label in zip(splits.classes, now, strict=True) if label < 0]
    if (targets < 0).all():
        theirs, ours = ", ".join(list(known)[:8]), ", ".join(splits.classes[:8])
        raise UserError(
            [f"{run.id} knows none of the classes {ours}; it knows {theirs}; translate them with --map FILE"]
        )
    if unknown:
        tell(f"left out: {int((targets < 0).sum()):,} images of {', '.join(unknown[:8])}, which {run.id} does not know")
    kept = targets >= 0
    return replace(images, rows=images.rows[kept], targets=targets[kept])


def _show(title: str, answers: Answers, metrics: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Print each metric with its 95 % interval. Returns {metric: (value, low, high)}."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    absent = len(answers.classes) - len(np.unique(answers.targets))
    tell(f"{title}: {len(answers):,} images" + (f", none of {absent:,} of the classes" if absent else ""))
    grid = Table(box=SIMPLE_HEAD)
    for name in ("metric", "value", "95 % interval"):
        grid.add_column(name, justify="left" if name == "metric" else "right")
    found = {}
    for name in metrics:
        value = compute(answers, name)
        low, high = _interval(answers, name)
        found[name] = value, low, high
        grid.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    console().print(grid)
    return found


def _interval(answers: Answers, name: str) -> tuple[float, float]:
    """The 95 % interval over images: Wilson's of a share, percentiles of a bootstrap otherwise."""
    n = len(answers)
    if name == "accuracy":
        low, high = wilson(np.array(int((answers.predicted == answers.targets).sum())), np.array(n))
        return float(low), float(high)
    values = []
    for number in range(RESAMPLES):
        draw = randomness.uniform(randomness.sample_keys(0, number, np.arange(n)), "bootstrap")
        try:
            values.append(compute(answers.in_order((draw * n).astype(np.int64)), name))
        except UserError:  # a resample without a class, of a metric that needs all
            continue
    ends = np.percentile(values, (2.5, 97.5)).tolist() if values else (np.nan, np.nan)
    return ends[0], ends[1]


def _record(
    run: Run, answers: Answers, splits: Splits, split: str, values: Mapping[str, tuple[float, float, float]]
) -> None:
    name = f"evaluations/{splits.name}-{split}-{splits.digest[:8]}"
    facts = {
        "data": {"name": splits.name, "digest": splits.digest, "source": splits.source, "split": split},
        "images": len(answers),
        "metrics": {metric: dict(zip(("value", "low", "high"), each, strict=True)) for metric, each in values.items()},
    }
    with locked(run.folder):
        journal = Journal(run.folder)
        log_answers(journal, f"{name}.parquet", answers)
        log_text(journal, f"{name}.json", json.dumps(facts, indent=1))
        journal.close(None)
    tell(f"recorded: {run.folder / 'artifacts' / name}.json")
