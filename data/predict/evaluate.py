"""labbook evaluate RUN ...: the metrics of runs with intervals, on their own test images or on another labeled set.

The parent of several seeds or folds stands for its finished runs. Without --root, the answers on record are used, and
no image is read, unless --precision asks for new answers. Of several runs, the mean of their probabilities is measured,
too. With --root, the images are read as those of the run, and classes are matched by name: a set may have some of the
run's classes, or others that --map translates. Images of classes that the run does not know are left out, with a
message. With --corrupt, the images are corrupted in the ways of Hendrycks and Dietterich 2019: noise, blur, weather,
compression. What was measured on images that were read is recorded under the run, in evaluations/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from core.augment.corruptions import KINDS, SEVERITIES
from core.common.arguments import VerbParser
from core.common.errors import UserError
from core.common.terminal import console, tell
from core.inference.answers import ask, log_answers, read
from core.inference.average import mean_answers
from core.inference.network import DTYPES, network_of
from core.loading.images import Images, Splits
from core.metrics.answers import Answers
from core.metrics.by_name import compute
from core.metrics.intervals import over_images
from core.metrics.names import EXACT_MATCH
from core.record.journal import Journal, log_text
from core.record.ledger import note_reading
from core.record.lock import PATIENCE, locked
from core.runs.members import members, refuse_different
from core.runs.trained import Run, load
from data.kinds import divided
from data.predict.corrupted import kinds_for, measure, show
from data.predict.labeled import another, chosen, converted, matched, of_labels, translation

METRICS = ("accuracy", "balanced_accuracy", "f1", "nll", "ece")
METRICS_OF_LABELS = ("accuracy", "f1", "map")  # of multi-label runs; accuracy is the share of exact matches


def main(words: Sequence[str]) -> int:
    """Exit status 0. Raises UserError."""
    parser = VerbParser("evaluate", __doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="finished run, or parent of seeds or folds")
    parser.add_argument("--root", type=Path, metavar="PATH", help="another labeled set: folder, archive, table, ...")
    parser.add_argument("--data", metavar="CLASS", help="its data set, with options --data.NAME")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), help="default: test, of another set all")
    parser.add_argument("--map", type=Path, metavar="FILE", help="CSV file of class of the set, class of the run")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help=f"default: {', '.join(METRICS)}; of labels {', '.join(METRICS_OF_LABELS)}",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 or mps; auto: the fastest one available")
    parser.add_argument("--precision", choices=tuple(DTYPES), help="convert the network; default: that of training")
    parser.add_argument("--corrupt", action="store_true", help="measure the accuracy on corrupted images")
    parser.add_argument("--kinds", metavar="A,B", help=f"kinds of corruption; default: {', '.join(KINDS)}")
    parser.add_argument(
        "--severity", type=int, choices=SEVERITIES, action="append", help="severity of corruption; default: all five"
    )
    parser.add_argument("--relative-to", metavar="RUN", help="also divide the errors under corruption by those of RUN")
    rest, options = divided(words)
    given = parser.parse_args(rest)
    runs = members(given.run)
    if not given.corrupt and (given.kinds is not None or given.severity or given.relative_to):
        raise UserError(["--kinds, --severity and --relative-to need --corrupt"])
    if given.corrupt and given.metric:
        raise UserError(["--metric: --corrupt measures the error alone; leave --metric out"])
    own = given.root is None and given.data is None
    split = given.split or ("test" if own else "all")
    if own:
        if given.map or options or split in ("train", "all"):
            raise UserError(["--data.NAME, --map and --split train or all need --root PATH or --data CLASS"])
        for run in runs if split == "test" else ():
            note_reading(run.record["data"]["digest"], run.record["data"]["name"], "evaluate", run.id)
        if not given.corrupt and not given.precision:
            found = [read(run, split) for run in runs]
            for run, answers in zip(runs, found, strict=True):
                _show(run.id, answers, given.metric)
            _show_mean(found, given.metric)
            return 0
    names = translation(given.map)
    found = []
    for run in runs:
        if own:
            splits = run.own_splits()
            images = chosen(splits, split)
        else:
            splits = another(run, given.root, given.data, options)
            images = matched(chosen(splits, split), splits, run, names)
        if given.corrupt:
            _corrupt(run, images, splits, split, given)
            continue
        classes = tuple(run.record["data"]["classes"])
        network = network_of(run, given.device, given.precision)
        answers = of_labels(ask(network, images, splits.name, classes, converted(run), run.tasks), splits, names)
        precision = f" in {given.precision}" if given.precision else ""
        values = _show(f"{run.id} on {splits.name}{precision}", answers, given.metric)
        measured = {metric: dict(zip(("value", "low", "high"), each, strict=True)) for metric, each in values.items()}
        facts = {"images": len(answers), "precision": given.precision or run.record["facts"].get("precision")}
        what = f"-{given.precision}" if given.precision else ""
        _record(run, splits, split, what, facts | {"metrics": measured}, answers)
        found.append(answers)
    _show_mean(found, given.metric)
    return 0


def _corrupt(run: Run, images: Images, splits: Splits, split: str, given: Any) -> None:
    """Measure a run on corrupted images. Raises UserError."""
    run.refuse_tasks("--corrupt does")
    if run.multi_label:
        raise UserError([f"{run.id}: --corrupt needs one class for each image, and this run is multi-label"])
    named = ",".join(KINDS) if given.kinds is None else given.kinds
    if not (asked := [kind.strip() for kind in named.split(",") if kind.strip()]):
        raise UserError([f"--kinds: no kind of corruption is given; choose of {', '.join(KINDS)}"])
    severities = sorted(set(given.severity or SEVERITIES))
    height, width, _ = run.record["data"]["image_shape"]
    kinds = kinds_for(min(height, width), asked)
    reference = load(given.relative_to) if given.relative_to else None
    if reference:
        refuse_different([run, reference])
    own, other = (
        measure(network_of(each, given.device, given.precision), images, converted(each), kinds, severities)
        if each
        else None
        for each in (run, reference)
    )
    assert own is not None
    show(f"{run.id} on {splits.name}", own, other, reference.id if reference else "")
    part = [*([] if asked == list(KINDS) else kinds), *(map(str, severities if given.severity else ()))]
    part += [given.precision] if given.precision else []
    relative = {"relative_to": {"run": reference.id, "errors": own.relative(other)}} if reference and other else {}
    versions = {"albumentations": version("albumentations")}
    _record(run, splits, split, "-".join(["-corrupted", *part]), own.facts() | relative | {"versions": versions})


def _show(title: str, answers: Answers, metrics: Sequence[str] | None) -> dict[str, tuple[float, float, float]]:
    """Print each metric with its 95 % interval. Returns {metric: (value, low, high)}."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    present = (answers.targets > 0).any(axis=0).sum() if answers.multi_label else len(np.unique(answers.targets))
    absent, kind = len(answers.classes) - int(present), "labels" if answers.multi_label else "classes"
    tell(f"{title}: {len(answers):,} images" + (f", none of {absent:,} of the {kind}" if absent else ""))
    grid = Table(box=SIMPLE_HEAD)
    for name in ("metric", "value", "95 % interval"):
        grid.add_column(name, justify="left" if name == "metric" else "right")
    found = {}
    for name in metrics or _default(answers):
        value = compute(answers, name)
        low, high = over_images(answers, name)
        found[name] = value, low, high
        grid.add_row(name, f"{value:.4f}", f"{low:.4f} to {high:.4f}")
    console().print(grid)
    return found


def _default(answers: Answers) -> tuple[str, ...]:
    if answers.tasks:
        return ("accuracy", EXACT_MATCH, *(f"accuracy_{task}" for task, _ in answers.tasks))
    return METRICS_OF_LABELS if answers.multi_label else METRICS


def _show_mean(found: Sequence[Answers], metrics: Sequence[str] | None) -> None:
    """Print the metrics of the mean of the probabilities of several runs, or why it cannot be taken."""
    if len(found) < 2:
        return
    try:
        mean = mean_answers(found)
    except UserError as reason:
        tell(f"no mean of {len(found)} runs: {reason}")
        return
    _show(f"mean of {len(found)} runs", mean, metrics)


def _record(
    run: Run, splits: Splits, split: str, what: str, measured: Mapping[str, Any], answers: Answers | None = None
) -> None:
    name = f"evaluations/{splits.name}-{split}-{splits.digest[:8]}{what}"
    read = {"name": splits.name, "digest": splits.digest, "source": splits.source, "split": split}
    with locked(run.folder, PATIENCE):
        journal = Journal(run.folder)
        if answers:
            log_answers(journal, f"{name}.parquet", answers)
        log_text(journal, f"{name}.json", json.dumps({"data": read, **measured}, indent=1))
        journal.close(None)
    tell(f"recorded: {run.folder / 'artifacts' / name}.json")
